"""Prefect's temporary server, for a run where none is named, with an end of its own.

Prefect starts it in the group of the run's process, so that Ctrl-C on a terminal ends both at once, and the run then
asks for minutes a server that is gone; and it leaves it behind where the run is killed. Here it has a session of its
own, and ends with the run's process, however that ends.
"""

import os
import signal
import subprocess
import sys
from typing import Any

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from tasks.engine.isolated_step import import_path
from tasks.engine.supervisor import terminate_with_parent

# As Prefect sets it in the method that is overridden below.
_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class TemporaryServer(SubprocessASGIServer):
    """The one that Prefect finds started when a flow asks for it; ended when the interpreter ends."""

    def launch(self) -> None:
        """Start its process, which takes ten seconds until it answers; ``start`` waits for it."""
        self.port = self.port or self.find_available_port()
        self.server_process = self._run_uvicorn_command()

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        if self.server_process is not None and self.server_process.poll() is None:
            return self.server_process
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(
            [sys.executable, "-m", "flows.servers.temporary_server", str(os.getpid()), str(self.port)],
            env=os.environ | _ENVIRONMENT | settings | {"PYTHONPATH": import_path()},
            start_new_session=True,
        )


def main(parent: int, port: int) -> None:
    """Serve on this machine only, until SIGTERM or the end of the parent."""
    import uvicorn

    terminate_with_parent(parent, signal.SIGTERM)
    application = "prefect.server.api.server:create_app"
    uvicorn.run(application, factory=True, host="127.0.0.1", port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
