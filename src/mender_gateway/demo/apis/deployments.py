"""Artifacts, deployments, and how far each device got: the server's deployments service.

A device gets its deployment record when it first asks for one; the record holds every status in
the order of arrival. The service takes any status at any time, even after `success`; only an
aborted deployment refuses. Configuration deployments have their artifact made on demand.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mender_gateway.demo.apis.gotext import timestamp
from mender_gateway.demo.artifact import ArtifactInfo

FINISHED = frozenset(
    {"success", "failure", "aborted", "noartifact", "already-installed", "decommissioned"}
)
STATUSES = (
    "aborted",
    "already-installed",
    "decommissioned",
    "downloading",
    "failure",
    "installing",
    "noartifact",
    "pause_before_committing",
    "pause_before_installing",
    "pause_before_rebooting",
    "pending",
    "rebooting",
    "success",
)
"""All words of the service, in the order of its statistics."""


class Conflicting(Exception):
    """A device asks with other data than before, during one deployment."""


class Aborted(Exception):
    """The deployment is over for this device."""


@dataclass(frozen=True, slots=True)
class Artifact:
    id: str
    info: ArtifactInfo
    size: int
    description: str
    modified: float

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "description": self.description,
            "name": self.info.name,
            "device_types_compatible": list(self.info.device_types),
            "info": {"format": "mender", "version": 3},
            "signed": self.info.signed,
            "updates": [
                {
                    "type_info": {"type": self.info.payload_type},
                    "files": [
                        {
                            "name": file.name,
                            "checksum": file.checksum,
                            "size": file.size,
                            "date": timestamp(self.modified, 0),
                        }
                        for file in self.info.files
                    ],
                }
            ],
            "artifact_provides": self.info.provides,
            "artifact_depends": self.info.depends,
            "clears_artifact_provides": list(self.info.clears),
            "size": self.size,
            "modified": timestamp(self.modified),
        }


@dataclass(slots=True)
class DeviceDeployment:
    """One device's way through one deployment."""

    device: str
    started: float
    status: str = "pending"
    history: list[str] = field(default_factory=list)
    """Every status that the device reported, in order of arrival."""
    substate: str = ""
    artifact: Artifact | None = None
    asked_with: tuple[str, str] | None = None
    """Device type and artifact name of the first poll."""
    finished: float | None = None
    log: str | None = None

    def as_json(self, created: float) -> dict[str, object]:
        view: dict[str, object] = {
            "created": timestamp(created),
            "started": timestamp(self.started),
        }
        if self.finished is not None:
            view["finished"] = timestamp(self.finished)
        view |= {"status": self.status, "id": self.device}
        if self.artifact is not None:
            view["image"] = self.artifact.as_json()
        view["log"] = self.log is not None
        if self.substate:
            view["substate"] = self.substate
        return view


@dataclass(slots=True)
class Deployment:
    """`settings` is what a configuration deployment brings; None for one of software."""

    id: str
    name: str
    artifact_name: str
    targets: tuple[str, ...]
    created: float
    control_map: Mapping[str, object] | None = None
    settings: Mapping[str, str] | None = None
    force_installation: bool = False
    aborted: bool = False
    finished: float | None = None
    devices: dict[str, DeviceDeployment] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if self.finished is not None:
            return "finished"
        moving = any(d.status != "pending" for d in self.devices.values())
        return "inprogress" if moving else "pending"

    def as_json(self) -> dict[str, object]:
        reached = list(self.devices.values())
        counts = {word: sum(d.status == word for d in reached) for word in STATUSES}
        sent = {d.artifact.id: d.artifact for d in reached if d.artifact is not None}
        view: dict[str, object] = {
            "name": self.name,
            "artifact_name": self.artifact_name,
            "created": timestamp(self.created),
        }
        if self.finished is not None:
            view["finished"] = timestamp(self.finished)
        term = {"scope": "identity", "attribute": "id", "type": "$in", "value": list(self.targets)}
        size = sum(d.artifact.size for d in reached if d.artifact is not None)
        return view | {
            "id": self.id,
            "artifacts": list(sent),
            "statistics": {"status": counts, "total_size": size},
            "status": self.status,
            "device_count": len(reached),
            "max_devices": len(self.targets),
            "filter": {"id": "", "name": "", "terms": [term]},
            "type": "software" if self.settings is None else "configuration",
        }


class Deployments:
    """All artifacts and deployments, in the order they were made."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.artifacts: dict[str, Artifact] = {}
        self.deployments: dict[str, Deployment] = {}

    def clash(self, info: ArtifactInfo) -> str | None:
        """A device type for which an artifact of that name exists already."""
        taken = {
            device_type
            for artifact in self.artifacts.values()
            if artifact.info.name == info.name
            for device_type in artifact.info.device_types
        }
        return next((t for t in info.device_types if t in taken), None)

    def add(self, info: ArtifactInfo, size: int, description: str = "") -> Artifact:
        artifact = Artifact(str(uuid.uuid4()), info, size, description, self._clock())
        self.artifacts[artifact.id] = artifact
        return artifact

    def create(
        self,
        name: str,
        artifact_name: str,
        targets: Sequence[str],
        *,
        control_map: Mapping[str, object] | None = None,
        settings: Mapping[str, str] | None = None,
        force_installation: bool = False,
    ) -> Deployment:
        """`LookupError` when there is no artifact of that name."""
        known = any(a.info.name == artifact_name for a in self.artifacts.values())
        if settings is None and not known:
            raise LookupError(artifact_name)
        deployment = Deployment(
            id=str(uuid.uuid4()),
            name=name,
            artifact_name=artifact_name,
            targets=tuple(targets),
            created=self._clock(),
            control_map=control_map,
            settings=settings,
            force_installation=force_installation,
        )
        if settings is not None:
            deployment.artifact_name = f"configuration-{deployment.id}"
        self.deployments[deployment.id] = deployment
        return deployment

    def next_for(
        self, device: str, device_type: str, artifact_name: str
    ) -> tuple[Deployment, DeviceDeployment] | None:
        """What the device is to do now, or None; `Conflicting` when it changed its story."""
        found = self._oldest_active(device)
        if found is None:
            return None
        deployment, record = found
        asked = (device_type, artifact_name)
        if deployment.settings is None:
            record.artifact = record.artifact or self._fitting(deployment, device_type)
            if record.artifact is None:
                self._set(deployment, record, "noartifact")
                return None
            installed = artifact_name == deployment.artifact_name
            fresh = record.status == "pending" and record.asked_with is None
            if installed and fresh and not deployment.force_installation:
                self._set(deployment, record, "already-installed")
                return None
        if record.asked_with not in (None, asked):
            raise Conflicting
        record.asked_with = asked
        return found

    def report(self, deployment_id: str, device: str, status: str, substate: str = "") -> None:
        """A device's status; `LookupError` for no such deployment, `Aborted` after an abort."""
        deployment, record = self.record(deployment_id, device)
        if record.status in ("aborted", "decommissioned") or deployment.aborted:
            raise Aborted
        record.history.append(status)
        record.substate = substate or record.substate
        self._set(deployment, record, status)

    def record(self, deployment_id: str, device: str) -> tuple[Deployment, DeviceDeployment]:
        deployment = self.deployments[deployment_id]
        return deployment, deployment.devices[device]

    def abort(self, deployment_id: str) -> None:
        """`LookupError` for no such deployment."""
        deployment = self.deployments[deployment_id]
        deployment.aborted = True
        deployment.finished = deployment.finished or self._clock()
        for record in deployment.devices.values():
            if record.status not in FINISHED:
                self._set(deployment, record, "aborted")

    def _oldest_active(self, device: str) -> tuple[Deployment, DeviceDeployment] | None:
        for deployment in self.deployments.values():
            if device not in deployment.targets or deployment.aborted:
                continue
            record = deployment.devices.get(device)
            if record is None:
                record = DeviceDeployment(device, self._clock())
                deployment.devices[device] = record
            if record.status not in FINISHED:
                return deployment, record
        return None

    def _fitting(self, deployment: Deployment, device_type: str) -> Artifact | None:
        return next(
            (
                artifact
                for artifact in self.artifacts.values()
                if artifact.info.name == deployment.artifact_name
                and device_type in artifact.info.device_types
            ),
            None,
        )

    def _set(self, deployment: Deployment, record: DeviceDeployment, status: str) -> None:
        record.status = status
        if status not in FINISHED:
            return
        record.finished = self._clock()
        reached = deployment.devices
        if len(reached) == len(deployment.targets) and all(
            d.status in FINISHED for d in reached.values()
        ):
            deployment.finished = deployment.finished or self._clock()
