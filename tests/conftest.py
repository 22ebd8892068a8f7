"""What holds for every test: properties are judged by their result, not by the machine's pace."""

from hypothesis import settings

settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")
