"""What administrators ask of the deployments service: artifacts and deployments."""

import uuid
from pathlib import Path

from mender_gateway.demo.apis.deployments import Artifact, Deployment, Deployments
from mender_gateway.demo.apis.devauth import DeviceAuth, Status
from mender_gateway.demo.apis.front import NO_CONTENT, ApiError, Call, Reply, Routes
from mender_gateway.demo.apis.gotext import timestamp
from mender_gateway.demo.artifact import BadArtifact, read_artifact
from mender_gateway.demo.storage import MANAGEMENT_LINK_LIFE, Storage
from mender_gateway.demo.uploads import BadUpload, receive

_ARTIFACTS = "/api/management/v1/deployments/artifacts"
_DEPLOYMENTS = "/api/management/v1/deployments/deployments"


class Releases:
    """The management routes of `Deployments`; uploads are kept under `directory`."""

    def __init__(
        self,
        deployments: Deployments,
        devauth: DeviceAuth,
        storage: Storage,
        directory: Path,
        routes: Routes,
    ) -> None:
        self._deployments = deployments
        self._devauth = devauth
        self._storage = storage
        self._directory = directory
        routes.add("GET", _ARTIFACTS, self.list_artifacts)
        routes.add("POST", _ARTIFACTS, self.upload)
        routes.add("GET", _ARTIFACTS + "/{artifact}", self.get_artifact)
        routes.add("DELETE", _ARTIFACTS + "/{artifact}", self.delete_artifact)
        routes.add("GET", _ARTIFACTS + "/{artifact}/download", self.download_link)
        routes.add("GET", _DEPLOYMENTS, self.list_deployments)
        routes.add("POST", _DEPLOYMENTS, self.create)
        routes.add("GET", _DEPLOYMENTS + "/{deployment}", self.get_deployment)
        routes.add("PUT", _DEPLOYMENTS + "/{deployment}/status", self.abort)
        routes.add("GET", _DEPLOYMENTS + "/{deployment}/devices", self.devices)
        routes.add("GET", _DEPLOYMENTS + "/{deployment}/devices/{device}/log", self.log)

    def add(self, path: Path, description: str = "") -> Artifact:
        """Takes an artifact file into the store as an upload would; `BadArtifact`, or `ApiError`
        when one of that name and device type exists."""
        info = read_artifact(path)
        clash = self._deployments.clash(info)
        if clash is not None:
            text = "an artifact with the same name and depends already exists"
            raise ApiError(409, text, {"conflict": {"device_type": clash}})
        artifact = self._deployments.add(info, path.stat().st_size, description)
        self._storage.put(artifact.id, path)
        return artifact

    async def upload(self, call: Call) -> Reply:
        name = str(uuid.uuid4())
        target = self._directory / f"{name}.mender"
        try:
            form = await receive(call.request, self._directory / f"{name}.form", target, "artifact")
            if form.file is None:
                raise BadUpload("request does not contain artifact")
            artifact = self.add(form.file, form.fields.get("description", ""))
        except (BadUpload, BadArtifact) as error:
            raise ApiError(400, str(error)) from None
        return Reply(201, headers=(("Location", f"{_ARTIFACTS}/{artifact.id}"),))

    async def list_artifacts(self, call: Call) -> Reply:
        return Reply.json([a.as_json() for a in self._deployments.artifacts.values()])

    async def get_artifact(self, call: Call) -> Reply:
        return Reply.json(self._artifact(call).as_json())

    async def delete_artifact(self, call: Call) -> Reply:
        artifact = self._artifact(call)
        del self._deployments.artifacts[artifact.id]
        self._storage.remove(artifact.id)
        return NO_CONTENT

    async def download_link(self, call: Call) -> Reply:
        artifact = self._artifact(call)
        filename = f"{artifact.info.name}.mender"
        expires = self._storage.now + MANAGEMENT_LINK_LIFE
        return Reply.json(
            {
                "uri": self._storage.link(artifact.id, filename, MANAGEMENT_LINK_LIFE),
                "expire": timestamp(expires, 9),
                "method": "GET",
            }
        )

    async def create(self, call: Call) -> Reply:
        value = await call.json("Validating request body: ")
        wanted = value if isinstance(value, dict) else {}
        if not wanted.get("name") or not wanted.get("artifact_name"):
            raise ApiError(400, "Validating request body: name: cannot be blank.")
        targets = wanted.get("devices") or []
        if wanted.get("all_devices"):
            accepted = (d for d in self._devauth.devices() if d.status is Status.ACCEPTED)
            targets = [device.id for device in accepted]
        if not targets or not isinstance(targets, list):
            text = (
                "Validating request body: Invalid deployments definition: provide list of devices"
            )
            raise ApiError(400, text)
        try:
            deployment = self._deployments.create(
                str(wanted["name"]),
                str(wanted["artifact_name"]),
                targets,
                control_map=wanted.get("update_control_map"),
                force_installation=wanted.get("force_installation") is True,
            )
        except LookupError:
            raise ApiError(422, "No artifact for the deployment") from None
        return Reply(201, headers=(("Location", f"{_DEPLOYMENTS}/{deployment.id}"),))

    async def list_deployments(self, call: Call) -> Reply:
        return Reply.json([d.as_json() for d in self._deployments.deployments.values()])

    async def get_deployment(self, call: Call) -> Reply:
        return Reply.json(self._deployment(call).as_json())

    async def abort(self, call: Call) -> Reply:
        value = await call.json()
        if not isinstance(value, dict) or value.get("status") != "aborted":
            raise ApiError(400, "Unexpected deployment status")
        deployment = self._deployment(call)
        if deployment.finished is not None:
            raise ApiError(422, "Deployment already finished")
        self._deployments.abort(deployment.id)
        return NO_CONTENT

    async def devices(self, call: Call) -> Reply:
        deployment = self._deployment(call)
        return Reply.json([d.as_json(deployment.created) for d in deployment.devices.values()])

    async def log(self, call: Call) -> Reply:
        record = self._deployment(call).devices.get(call.params["device"])
        if record is None or record.log is None:
            raise ApiError(404, "Resource not found")
        return Reply(200, record.log.encode(), (("Content-Type", "text/plain"),))

    def _artifact(self, call: Call) -> Artifact:
        artifact = self._deployments.artifacts.get(call.params["artifact"])
        if artifact is None:
            raise ApiError(404, "Resource not found")
        return artifact

    def _deployment(self, call: Call) -> Deployment:
        deployment = self._deployments.deployments.get(call.params["deployment"])
        if deployment is None:
            raise ApiError(404, "Resource not found")
        return deployment
