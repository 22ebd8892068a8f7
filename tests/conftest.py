"""What holds for every test: properties are judged by their result, not by a busy machine's pace."""

from hypothesis import settings

settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")
