"""A real Slurm with two nodes on one machine, for tests: ``python -m tests.cluster.rig up FOLDER``.

Each node is a ``slurmd`` in network, PID, mount and UTS namespaces of its own, so that it has its
own address, its own host name and its own process numbers, as two machines have. Each has two GPUs
that Slurm counts and nobody can compute on. It needs root and Debian's packages ``slurm-wlm``,
``slurmdbd``, ``munge`` and ``mariadb-server``.

Learned from Slurm 22.05:

- The executor plugin's job step strips ``SLURM_*`` before its inner ``srun``: the configuration
  must be found under ``/etc/slurm``.
- ``gres.conf`` needs ``File=``; a count alone registers no GPU.
- SIGKILL to a node's ``unshare`` takes ``slurmd`` and all of its jobs along, like a machine that
  loses its power.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

NAME = "petrrig"
NETWORK = "10.79.0"
PORTS = {"controller": 26817, "node": 26818, "accounts": 26819, "database": 23306}
NODES = (1, 2)
CORES = 8
SLURM_FILES = ("slurm.conf", "gres.conf", "cgroup.conf", "slurmdbd.conf")
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "ip", "unshare")
WAIT_SECONDS = 60.0

SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}({network}.1)
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=3,sched_interval=3,requeue_setup_env_fail
ReturnToService=2
SlurmdTimeout=10
KillWait=15
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounts}
AccountingStoragePass={folder}/run/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
GresTypes=gpu
NodeName=n1 NodeAddr={network}.11 CPUs={cores} RealMemory=200000 Gres=gpu:2
NodeName=n2 NodeAddr={network}.12 CPUs={cores} RealMemory=200000 Gres=gpu:2
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 OverTimeLimit=0
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

ACCOUNTS_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=localhost
DbdPort={accounts}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
"""


def missing() -> str:
    """Return why no rig can be brought up here; empty where it can."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"a Slurm of its own needs {', '.join(absent)} (Debian: slurm-wlm slurmdbd munge mariadb-server)"
    if taken := [
        name for name in SLURM_FILES if (path := Path("/etc/slurm") / name).exists() and not path.is_symlink()
    ]:
        return f"/etc/slurm/{taken[0]} is there already: this machine has a Slurm"
    namespace = subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if namespace.returncode == 0 else "this machine gives no namespaces"


def run(*command: object, check: bool = True) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def wait_for(what: str, condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen in {seconds:.0f} s")
        time.sleep(0.2)


@dataclass
class Rig:
    """Two nodes, a controller, accounts and their database in one folder."""

    folder: Path

    # ------------------------------------------------------------------------------------ up and down

    def up(self) -> None:
        """Start everything and wait until both nodes are idle."""
        for name in ("etc", "run", "log", "spool/n1", "spool/n2", "state", "dev", "db"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        shutil.chown(self.folder / "db", "mysql")
        self._write_settings()
        self._start_accounts()
        self._make_network()
        run("slurmctld")
        for number in NODES:
            self.start_node(number)
        wait_for(
            "an idle cluster", lambda: run("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D", check=False) == "2"
        )

    def _write_settings(self) -> None:
        etc = self.folder / "etc"
        values = {
            "folder": self.folder,
            "name": NAME,
            "network": NETWORK,
            "host": socket.gethostname(),
            "cores": CORES,
            **PORTS,
        }
        (etc / "hosts").write_text(
            f"127.0.0.1 localhost\n{NETWORK}.1 {socket.gethostname()}\n{NETWORK}.11 n1\n{NETWORK}.12 n2\n"
        )
        (etc / "slurm.conf").write_text(SLURM_CONF.format(**values))
        (etc / "slurmdbd.conf").write_text(ACCOUNTS_CONF.format(**values))
        (etc / "slurmdbd.conf").chmod(0o600)
        (etc / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={self.folder}/dev/nvidia[0-1]\n")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for number in (0, 1):
            device = self.folder / "dev" / f"nvidia{number}"
            if not device.exists():
                os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        key = etc / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(1024))
        Path("/etc/slurm").mkdir(exist_ok=True)
        for name in SLURM_FILES:
            link = Path("/etc/slurm") / name
            if link.is_symlink():
                link.unlink()
            link.symlink_to(etc / name)

    def _start_accounts(self) -> None:
        folder, database = self.folder, self.folder / "db"
        run("munged", "--force", f"--key-file={folder}/etc/munge.key", f"--socket={folder}/run/munge.socket",
            f"--pid-file={folder}/run/munged.pid", f"--log-file={folder}/log/munged.log", f"--seed-file={folder}/run/munge.seed")  # fmt: skip
        if not (database / "mysql").exists():
            run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={database}",
                "--auth-root-authentication-method=normal", "--skip-test-db")  # fmt: skip
        self._spawn("mariadb", "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={database}", f"--socket={database}/s.sock",
                    f"--port={PORTS['database']}", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=128M",
                    "--innodb-lock-wait-timeout=900")  # fmt: skip
        ask = ("mariadb", "--no-defaults", "-S", database / "s.sock", "-uroot", "-e")
        wait_for(
            "a database",
            lambda: (
                subprocess.run([str(each) for each in (*ask, "select 1")], capture_output=True, check=False).returncode
                == 0
            ),
        )
        for host in ("127.0.0.1", "localhost"):
            run(*ask, f"create user if not exists 'slurm'@'{host}' identified by 'slurm'; "
                f"grant all on slurm_acct_db.* to 'slurm'@'{host}'")  # fmt: skip
        run("slurmdbd")
        wait_for(
            "accounts",
            lambda: (
                subprocess.run(["sacctmgr", "-n", "show", "cluster"], capture_output=True, check=False).returncode == 0
            ),
        )
        for words in (
            ("cluster", NAME),
            ("account", "default", f"Cluster={NAME}"),
            ("user", "root", "account=default"),
        ):
            run("sacctmgr", "-i", "add", *words, check=False)  # they are there after a second `up`

    def _make_network(self) -> None:
        bridge = f"{NAME}br"
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for number in NODES:
            space, cable = f"{NAME}{number}", f"{NAME}v{number}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", cable, "master", bridge, "up")
            run("ip", "-n", space, "addr", "add", f"{NETWORK}.1{number}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")

    def down(self) -> None:
        """End what was started, and take the network and the links away."""
        for number in NODES:
            self.kill_node(number)
        for name in ("slurmctld", "slurmdbd", "mariadb", "munged"):
            self._end(name)
        for number in NODES:
            run("ip", "netns", "del", f"{NAME}{number}", check=False)
        run("ip", "link", "del", f"{NAME}br", check=False)
        for name in SLURM_FILES:
            link = Path("/etc/slurm") / name
            if link.is_symlink() and link.readlink() == self.folder / "etc" / name:
                link.unlink()

    # ------------------------------------------------------------------------------------------ nodes

    def start_node(self, number: int) -> None:
        """Start a node; its jobs see no other node's processes."""
        inside = f"hostname n{number}; mount --bind {self.folder}/etc/hosts /etc/hosts; exec slurmd -D -N n{number}"
        self._spawn(f"n{number}", "ip", "netns", "exec", f"{NAME}{number}", "unshare", "--pid", "--fork", "--kill-child",
                    "--mount-proc", "--uts", "bash", "-c", inside)  # fmt: skip

    def kill_node(self, number: int) -> None:
        """Let a node vanish with all of its processes."""
        self._end(f"n{number}", signal.SIGKILL)

    # -------------------------------------------------------------------------------------- processes

    def _spawn(self, name: str, *command: object) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen([str(each) for each in command], stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=output, start_new_session=True)  # fmt: skip
        (self.folder / "run" / f"{name}.pid").write_text(str(process.pid))

    def _end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one of the processes that this rig started, known by the file of its number."""
        path = self.folder / "run" / f"{name}.pid"
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(path.read_text()))
            if str(self.folder) in " ".join(process.cmdline()) or process.name() in (
                "slurmctld",
                "slurmdbd",
                "unshare",
            ):
                process.send_signal(number)
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(15)
        path.unlink(missing_ok=True)


def main() -> None:
    """Bring a rig up, take it down, lose a node or bring it back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down", "kill-node", "start-node"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("node", type=int, nargs="?", choices=NODES)
    arguments = parser.parse_args()
    rig = Rig(arguments.folder.resolve())
    if arguments.action == "up":
        if why := missing():
            parser.error(why)
        rig.up()
        print(run("sinfo", "-N", "-o", "%N %t %C %G"))
    elif arguments.action == "down":
        rig.down()
    else:
        getattr(rig, arguments.action.replace("-", "_"))(arguments.node)


if __name__ == "__main__":
    main()
