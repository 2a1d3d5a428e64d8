"""Show training curves in a browser: VisualDL on the results folder, with the tunnel that a rented
instance needs.

python -m petrflow.reports.curves --logdir results --port 8040
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from petrflow.errors import PetrflowError


def tunnel_command(port: int, environment: Mapping[str, str]) -> str:
    """Return the one line that a person types on their own machine to see ``port`` of this one.

    An SSH session knows the address and the port under which this machine was reached; without one,
    they are left to fill in.
    """
    connection = environment.get("SSH_CONNECTION", "").split()
    address, ssh_port = (connection[2], connection[3]) if len(connection) == 4 else ("ADDRESS-OF-THIS-MACHINE", "22")
    option = "" if ssh_port == "22" else f"-p {ssh_port} "
    return f"ssh {option}-N -L {port}:localhost:{port} {getpass.getuser()}@{address}"


def check_port(host: str, port: int) -> None:
    """Raise PetrflowError when something else listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PetrflowError(
                f"port {port} of {host}: {error.strerror}; choose another: make visualdl PORT=8041"
            ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print where the curves are, then serve them until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m petrflow.reports.curves", description="Training curves in a browser."
    )
    parser.add_argument("--logdir", type=Path, default=Path("results"), help="folder with runs (default: results)")
    parser.add_argument("--port", type=int, default=8040, help="port to serve on (default: 8040)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; VisualDL asks for no password, so the default is this machine alone, reached by a tunnel",
    )
    options = parser.parse_args(arguments)
    try:
        check_port(options.host, options.port)
    except PetrflowError as error:
        print(f"visualdl: {error}", file=sys.stderr)
        return 1
    if not any(options.logdir.glob("**/vdlrecords.*.log")):
        print(f"No curves under {options.logdir} yet: they appear when training takes its first steps.", flush=True)
    print(f"Curves: http://localhost:{options.port}/app/scalar   (Ctrl-C ends it)", flush=True)
    print("On a rented machine, type this on your own, then open the same address there:", flush=True)
    print(f"  {tunnel_command(options.port, os.environ)}", flush=True)
    from visualdl.server import app

    sys.argv = ["visualdl", "--logdir", str(options.logdir), "--host", options.host, "--port", str(options.port)]
    with contextlib.suppress(KeyboardInterrupt):
        app.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
