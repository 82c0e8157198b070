"""The caches that are compared: this project's edge, nginx, Varnish and Squid, each as its users would tune it."""

from __future__ import annotations

import functools
import os
import pwd
import resource
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.harness.machine import said_by
from benchmarks.harness.servers import Budget, CacheServer, debian_version, free_port

CONNECTIONS_MAX: Final = 12_000
_MEMORY_FOLDER: Final = Path("/dev/shm")
_SQUID_USER: Final = "proxy"
_MIB: Final = 1 << 20


class Edge(CacheServer):
    """`cdn edge run` of the project that this program belongs to, defaults but for sizes and limits."""

    name = "cdn edge"
    program = sys.executable
    package = "this project"

    @classmethod
    def version(cls) -> str:
        return said_by([sys.executable, "-P", "-m", "cdn", "--version"])

    @classmethod
    def has_workers(cls) -> bool:
        """Whether it can serve with several processes."""
        return "workers" in _keys_of("EdgeConfig")

    def configure(self) -> list[str]:
        budget, file = self.budget, self.folder / "edge.toml"
        workers = [f"workers = {budget.workers}"] if self.has_workers() else []
        limits = {"connections_max": CONNECTIONS_MAX, "connections_per_address": CONNECTIONS_MAX}
        lines = [
            'name = "bench"',
            *workers,
            "[listen]",
            f'addresses = ["127.0.0.1:{self.port}"]',
            "backlog = 4096",
            "[admin]",
            'listen = ""',
            "[[upstreams]]",
            'name = "origin"',
            f'urls = ["http://127.0.0.1:{self.origin_port}/cvmfs/@fqrn@"]',
            "[cache]",
            'directory = "cache"',
            f"memory_bytes = {budget.memory_bytes}",
            f"disk_bytes = {budget.disk_bytes}",
            "[limits]",
            *(f"{key} = {value}" for key, value in limits.items() if key in _keys_of("LimitSettings")),
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [sys.executable, "-P", "-m", "cdn", "edge", "run", "--config", str(file)]

    def described(self) -> dict[str, str]:
        return {"edge.toml": _read(self.folder / "edge.toml")}


class Nginx(CacheServer):
    """nginx `proxy_cache` with sendfile, the open-file cache and a lock for what is being fetched."""

    name = "nginx"
    program = "nginx"
    package = "nginx"

    def __init__(self, folder: Path, origin_port: int, budget: Budget, core: int | None) -> None:
        super().__init__(folder, origin_port, budget, core)
        self._other_port = free_port()

    @classmethod
    def version(cls) -> str:
        return f"{said_by([cls.program, '-v'])} ({debian_version(cls.package)})"

    def configure(self) -> list[str]:
        budget, file = self.budget, self.folder / "nginx.conf"
        open_files = max(1_000, min(budget.objects_max, _files_max() - CONNECTIONS_MAX - 1_000))
        keys_mib = max(10, budget.objects_max // 4_000)  # a mebibyte of keys is about 8,000 objects
        file.write_text(
            f"""{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes {budget.workers};
worker_rlimit_nofile {_files_max()};
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.log warn;
events {{ worker_connections {min(16_384, _files_max())}; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 100000000;
    open_file_cache max={open_files} inactive=10m;
    open_file_cache_valid 10m;
    client_body_temp_path {self.folder}/body;
    proxy_temp_path {self.folder}/proxy;
    fastcgi_temp_path {self.folder}/fastcgi;
    uwsgi_temp_path {self.folder}/uwsgi;
    scgi_temp_path {self.folder}/scgi;
    proxy_cache_path {self.folder}/cache levels=2:2 keys_zone=edge:{keys_mib}m max_size={budget.disk_bytes}
        inactive=1d use_temp_path=off;
    upstream origin {{ server 127.0.0.1:{self.origin_port}; keepalive 64; }}
{self._serves(self.port, "on")}
{self._serves(self._other_port, "off")}
}}
""",
            encoding="utf-8",
        )
        return ["nginx", "-c", str(file), "-p", str(self.folder), "-e", str(self.folder / "error.log")]

    def _serves(self, port: int, nopush: str) -> str:
        return f"""    server {{
        listen 127.0.0.1:{port} backlog=4096{" reuseport" if self.budget.workers > 1 else ""};
        tcp_nopush {nopush};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache edge;
            proxy_cache_key $uri;
            proxy_cache_valid 200 1d;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 120s;
            proxy_cache_lock_age 120s;
            add_header X-Cache $upstream_cache_status;
        }}
    }}"""

    def urls(self, path: str) -> list[str]:
        """With and without `tcp_nopush`: faster for small answers, but some larger ones wait 40 ms for their end."""
        return [self.url(path), f"http://127.0.0.1:{self._other_port}{path}"]

    def described(self) -> dict[str, str]:
        return {"nginx.conf": _read(self.folder / "nginx.conf")}


class Varnish(CacheServer):
    """Varnish with storage in memory and its built-in rules; its log is in memory, too, and nobody reads it."""

    name = "Varnish"
    program = "varnishd"
    package = "varnish"

    @classmethod
    def version(cls) -> str:
        return f"{said_by([cls.program, '-V']).partition(' revision')[0].strip('(')} ({debian_version(cls.package)})"

    def configure(self) -> list[str]:
        (self.folder / "default.vcl").write_text(
            f'vcl 4.1;\nbackend origin {{ .host = "127.0.0.1"; .port = "{self.origin_port}"; }}\n', encoding="utf-8"
        )
        return self._command()

    def _command(self) -> list[str]:
        parameters = ["listen_depth=4096", f"workspace_backend={64 << 10}"]
        named = ["-F", "-j", "none", "-n", str(self._work), "-f", str(self.folder / "default.vcl"), "-T", "none"]
        stores = ["-s", f"default=malloc,{self.budget.memory_bytes}", "-s", "Transient=malloc,256m"]
        chosen = [part for parameter in parameters for part in ("-p", parameter)]
        return ["varnishd", *named, "-a", f"127.0.0.1:{self.port}", *stores, *chosen]

    @property
    def _work(self) -> Path:
        where = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else self.folder
        return where / f"{self.folder.parent.name}-{self.port}"

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._work, ignore_errors=True)

    def described(self) -> dict[str, str]:
        return {"default.vcl": _read(self.folder / "default.vcl"), "command": " ".join(self._command())}


class Squid(CacheServer):
    """Squid as an accelerator, with a cache in memory and one on disk with threads for it (`aufs`)."""

    name = "Squid"
    program = "squid"
    package = "squid"

    @classmethod
    def version(cls) -> str:
        return f"{said_by([cls.program, '-v'])} ({debian_version(cls.package)})"

    def configure(self) -> list[str]:
        budget, file = self.budget, self.folder / "squid.conf"
        store = self.folder / "cache"
        store.mkdir()
        user = f"cache_effective_user {_SQUID_USER}" if os.geteuid() == 0 else ""
        file.write_text(
            f"""{user}
http_port 127.0.0.1:{self.port} accel no-vhost defaultsite=127.0.0.1:{self.origin_port}
cache_peer 127.0.0.1 parent {self.origin_port} 0 no-query no-digest originserver name=origin
cache_peer_access origin allow all
http_access allow all
workers 1
collapsed_forwarding on
cache_mem {budget.memory_bytes // 1024} KB
maximum_object_size_in_memory {budget.object_bytes_max // 1024} KB
maximum_object_size {budget.object_bytes_max // 1024} KB
cache_dir aufs {store} {max(8, budget.disk_bytes // _MIB)} 16 256
access_log none
cache_store_log none
cache_log {self.folder}/cache.log
pid_filename {self.folder}/squid.pid
coredump_dir {self.folder}
max_filedescriptors {_files_max()}
pinger_enable off
shutdown_lifetime 1 seconds
client_persistent_connections on
server_persistent_connections on
buffered_logs on
read_ahead_gap {budget.object_bytes_max // 1024} KB
memory_pools on
""",
            encoding="utf-8",
        )
        if os.geteuid() == 0:
            self._hand_over()
        said_by(["squid", "-N", "-z", "-f", str(file)])
        return ["squid", "-N", "-f", str(file)]

    def _hand_over(self) -> None:
        """Squid gives up the rights of root and must still reach its folder."""
        owner = pwd.getpwnam(_SQUID_USER)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        for parent in (self.folder.parent, self.folder.parent.parent):
            parent.chmod(parent.stat().st_mode | 0o011)

    def described(self) -> dict[str, str]:
        return {"squid.conf": _read(self.folder / "squid.conf")}


PEERS: Final[dict[str, type[CacheServer]]] = {"nginx": Nginx, "varnish": Varnish, "squid": Squid}


def chosen_peers(names: list[str]) -> tuple[list[type[CacheServer]], dict[str, str]]:
    """The peers that are here, and for the others why they are left out."""
    here = [PEERS[name] for name in names if shutil.which(PEERS[name].program)]
    absent = {
        PEERS[name].name: f"{PEERS[name].program} is not installed (Debian: apt install {PEERS[name].package})"
        for name in names
        if not shutil.which(PEERS[name].program)
    }
    return here, absent


@functools.cache
def _keys_of(settings: str) -> list[str]:
    """The keys that this edge has in one of its tables.

    Another interpreter is asked: in one that runs `benchmarks/edge.py`, `edge` is that program.
    """
    asked = f"import dataclasses, edge.config as c; print(*(f.name for f in dataclasses.fields(c.{settings})))"
    return said_by([sys.executable, "-P", "-c", asked]).split()


def _files_max() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""
