"""Starts a Pod as a kubelet does that knows native sidecars: container by container, as podman 4 cannot play those."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from .engine import Engine
from .outside import NETWORK

Data = dict[str, Any]


class Kubelet:
    """Starts the containers of one Pod; `log` has what those printed that ran to their end."""

    def __init__(self, engine: Engine, pod: Data, config_map: Data) -> None:
        self._engine = engine
        self._name = pod["metadata"]["name"]
        self._spec: Data = pod["spec"]
        self._volumes = engine.folder / f"{self._name}-volumes"
        for volume in self._spec["volumes"]:
            assert volume["configMap"]["name"] == config_map["metadata"]["name"]
            _write(self._volumes / volume["name"], config_map["data"])
        self.log: dict[str, str] = {}

    def start(self) -> None:
        """In order: an init container must end well, a sidecar must have started, before the next one begins."""
        hosts = [f"--add-host={name}:{item['ip']}" for item in self._spec["hostAliases"] for name in item["hostnames"]]
        self._engine.run("pod", "create", "--name", self._name, "--network", NETWORK, *hosts)
        for container in self._spec["initContainers"]:
            if container.get("restartPolicy") == "Always":
                self._run(container, "--detach")
                self._await(container)
            else:
                self.log[container["name"]] = self._run(container)
        for container in self._spec["containers"]:
            self._run(container, "--detach")

    def stop(self) -> dict[str, int]:
        """End the application, then the sidecars, the last first; the exit status of each."""
        sidecars = [item for item in self._spec["initContainers"] if item.get("restartPolicy") == "Always"]
        return {item["name"]: self._end(item) for item in [*self._spec["containers"], *reversed(sidecars)]}

    def _run(self, container: Data, *options: str) -> str:
        command = container.get("command")
        entry = ["--entrypoint", json.dumps(command)] if command else []
        name = f"--name={self._name}-{container['name']}"
        words = ["run", "--pod", self._name, name, "--pull=never", *options, *_rights(container), *entry]
        words += [f"--env={item['name']}={item['value']}" for item in container.get("env", ())]
        words += [self._mounted(item) for item in container.get("volumeMounts", ())]
        return self._engine.run(*words, container["image"], *container.get("args", ())).out

    def _mounted(self, mount: Data) -> str:
        assert mount["readOnly"]
        return f"--volume={self._volumes / mount['name']}:{mount['mountPath']}:ro"

    def _await(self, container: Data) -> None:
        probe = container["startupProbe"]
        words = ("exec", f"{self._name}-{container['name']}", *probe["exec"]["command"])
        for _ in range(probe["failureThreshold"]):
            if self._engine.run(*words, check=False).status == 0:
                return
            time.sleep(probe["periodSeconds"])
        raise AssertionError(f"{container['name']} has not started")

    def _end(self, container: Data) -> int:
        name = f"{self._name}-{container['name']}"
        self._engine.run("stop", "--time=30", name)
        return int(json.loads(self._engine.run("inspect", name).out)[0]["State"]["ExitCode"])


def _write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def _rights(container: Data) -> list[str]:
    """What `securityContext` says; /run is not writable either, which podman would make it."""
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    words = ["--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges"]
    words += [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
    words += [f"--cap-drop={name}" for name in context["capabilities"]["drop"]]
    return words + [f"--cap-add={name}" for name in context["capabilities"].get("add", ())]
