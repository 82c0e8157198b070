"""What a reader may type: the examples at the end of each command's help.

They stand in one table, as the commands do, so that they can be read side by side and a test can hold each of them
against the options there really are. A line that begins with ``#`` says what the next one is for.
"""

from __future__ import annotations

from typing import Final

import click

EXAMPLES: Final[dict[str, str]] = {
    "repo create": """
        cdn repo create sw.example.org
        # one whose master key stays on another machine
        cdn repo create sw.example.org --master-pub sw.example.org.pub
        # one that belongs to the user "librarian" and lies elsewhere
        cdn repo create sw.example.org --owner librarian --storage /data/sw
        """,
    "repo list": """
        cdn repo list
        cdn repo list --json | jq -r '.repositories[].repository'
        """,
    "repo info": """
        cdn repo info sw.example.org
        cdn repo info sw.example.org --sizes --json
        """,
    "repo settings": """
        cdn repo settings sw.example.org
        cdn repo settings sw.example.org ttl_seconds=600 compression_level=6
        """,
    "repo describe": """
        cdn repo describe sw.example.org
        cdn repo describe sw.example.org --email librarian@example.org
        """,
    "repo metrics": """
        cdn repo metrics
        cdn repo metrics sw.example.org > /var/lib/node_exporter/sw.prom
        """,
    "repo remove": """
        cdn repo remove sw.example.org
        # in a script, and without removing what is served
        cdn repo remove sw.example.org --yes --keep-storage
        """,
    "repo keys": """
        # the master key is on another machine: here, there, here
        cdn repo keys export sw.example.org request
        cdn repo keys sign request --masterkey sw.example.org.masterkey
        cdn repo keys import sw.example.org request
        """,
    "repo keys status": "cdn repo keys status sw.example.org",
    "repo keys resign": """
        cdn repo keys resign sw.example.org --days 30
        # once a day, from a timer
        cdn repo keys resign --all --if-due
        """,
    "repo keys rotate": """
        cdn repo keys rotate sw.example.org
        # the key leaked
        cdn repo keys rotate sw.example.org --revoke-old
        """,
    "repo keys export": "cdn repo keys export sw.example.org request --days 30",
    "repo keys sign": "cdn repo keys sign request --masterkey sw.example.org.masterkey",
    "repo keys import": """
        cdn repo keys import sw.example.org request
        # signed by openssl instead
        cdn repo keys import sw.example.org request --signature request.sig
        """,
    "publish": """
        cdn publish sw.example.org ./build
        # see what would change below /software, then do it and give it a name
        cdn publish sw.example.org ./build --to /software --dry-run
        cdn publish sw.example.org ./build --to /software --tag v1.2
        """,
    "ingest": """
        cdn ingest sw.example.org gcc-14.tar.zst --to /compilers/gcc-14
        # as it is downloaded, without its outermost folder
        curl -L https://example.org/tool.tar.gz \\
            | cdn ingest sw.example.org - --strip-components 1
        """,
    "transaction": """
        cdn transaction begin sw.example.org /software
        cdn transaction put sw.example.org notes.txt /software/notes.txt
        cdn transaction diff sw.example.org
        cdn transaction commit sw.example.org --tag v2
        """,
    "transaction begin": """
        cdn transaction begin sw.example.org
        # on a subtree, so that others can work beside it; and keep its name
        export CDN_TRANSACTION=$(cdn transaction begin sw.example.org /software)
        """,
    "transaction put": """
        cdn transaction put sw.example.org notes.txt /software/notes.txt
        cdn transaction put sw.example.org -r ./lib /software/lib
        date | cdn transaction put sw.example.org - /software/built --mode 644
        """,
    "transaction rm": """
        cdn transaction rm sw.example.org /software/notes.txt
        cdn transaction rm sw.example.org -r /software/old /software/older
        """,
    "transaction mv": "cdn transaction mv sw.example.org /software/new /software/current",
    "transaction mkdir": "cdn transaction mkdir sw.example.org -p /software/a/b --mode 755",
    "transaction chmod": "cdn transaction chmod sw.example.org 755 /software/run /software/tool",
    "transaction symlink": "cdn transaction symlink sw.example.org v2 /software/latest",
    "transaction status": "cdn transaction status sw.example.org",
    "transaction diff": "cdn transaction diff sw.example.org",
    "transaction list": "cdn transaction list sw.example.org",
    "transaction commit": """
        cdn transaction commit sw.example.org --tag v2 -m "tested on all sites"
        """,
    "transaction abort": """
        cdn transaction abort sw.example.org
        # one of several, by what `cdn transaction list` shows
        cdn transaction abort sw.example.org --id 20260131-120000-3fbae4
        """,
    "tag add": """
        # the current revision, then an earlier one
        cdn tag add sw.example.org stable
        cdn tag add sw.example.org stable 17 --move -m "tested on all sites"
        """,
    "tag list": """
        cdn tag list sw.example.org
        cdn tag list sw.example.org --managed --json
        """,
    "tag rm": "cdn tag rm sw.example.org v0.9 v0.9.1",
    "rollback": """
        # to the revision before, to a tag, to a number
        cdn rollback sw.example.org
        cdn rollback sw.example.org --to stable
        cdn rollback sw.example.org --to 17
        """,
    "diff": """
        # what the current revision changed
        cdn diff sw.example.org
        cdn diff sw.example.org v1 v2 --below /software
        # paths that are new, for a script
        cdn diff sw.example.org stable trunk --flat | sed -n 's/^+ //p'
        """,
    "gc": """
        cdn gc sw.example.org --dry-run
        cdn gc sw.example.org --keep-days 7 --keep-revisions 10
        """,
    "check": """
        cdn check sw.example.org
        # go on where an earlier check was interrupted, and mend from a replica
        cdn check sw.example.org --resume
        cdn check sw.example.org \\
            --repair-from http://stratum1.example.org/cvmfs/sw.example.org
        """,
    "ls": """
        cdn ls -l sw.example.org:/software
        cdn ls http://edge.example.org/cvmfs/sw.example.org/software --key sw.pub
        # as it was
        cdn ls sw.example.org:/software --tag v1
        """,
    "cat": """
        cdn cat sw.example.org:/software/notes.txt
        cdn cat sw.example.org:/software/notes.txt --at 2026-01-31T12:00:00Z
        """,
    "stat": """
        cdn stat sw.example.org:/software/tool
        cdn stat -L sw.example.org:/software/latest --json
        """,
    "find": """
        cdn find sw.example.org:/software -name '*.so*' -type f,l
        cdn find sw.example.org -size +100MiB --newer 2026-01-01 -l
        # for programs that take any name
        cdn find sw.example.org:/software -type f -print0 | xargs -0 -n1 echo
        """,
    "cp": """
        cdn cp sw.example.org:/software/notes.txt .
        cdn cp -r sw.example.org:/software/lib ./lib
        """,
    "tree": """
        cdn tree sw.example.org:/software --depth 2
        cdn tree -aD sw.example.org
        """,
    "serve": """
        cdn serve --host 0.0.0.0 --port 8000
        # what a replica holds, with metrics for Prometheus
        cdn serve --storage /srv/replicas --port 8001 --metrics-port 9155
        """,
    "replica": """
        cdn replica add sw.example.org --key sw.example.org.pub \\
            --server http://stratum0.example.org/cvmfs/sw.example.org
        cdn replica run --metrics 127.0.0.1:9154
        """,
    "replica add": """
        cdn replica add sw.example.org --key sw.example.org.pub \\
            --server http://stratum0.example.org/cvmfs/sw.example.org
        # from either of two sources, every ten minutes
        cdn replica add sw.example.org --key sw.example.org.pub --interval 10m \\
            --server http://one.example.org/cvmfs/sw.example.org \\
            --server http://two.example.org/cvmfs/sw.example.org
        """,
    "replica sync": """
        cdn replica sync
        cdn replica sync sw.example.org data.example.org
        """,
    "replica status": "cdn replica status",
    "replica check": """
        cdn replica check sw.example.org
        cdn replica check sw.example.org --quick
        cdn replica check sw.example.org --repair
        """,
    "replica run": """
        # all of them, with metrics for Prometheus
        cdn replica run --metrics 127.0.0.1:9154
        """,
    "replica remove": """
        cdn replica remove sw.example.org
        # in a script, and without deleting the copy
        cdn replica remove sw.example.org --yes --keep-data
        """,
    "edge run": "cdn edge run --config /etc/stratocast/edge.toml",
    "edge check-config": "cdn edge check-config --config /etc/stratocast/edge.toml",
    "edge status": """
        cdn edge status
        cdn edge status --admin http://127.0.0.1:9155 --json
        # a line every ten seconds
        cdn edge status --watch --interval 10
        """,
    "edge purge": """
        # have a repository confirmed by an upstream before it is used again
        cdn edge purge --repository sw.example.org --soft
        # gone, as a client of a server and as one of a proxy asks for it
        cdn edge purge --url /cvmfs/sw.example.org/.cvmfspublished \\
            --url http://stratum1.example.org/cvmfs/sw.example.org/.cvmfspublished
        cdn edge purge --prefix http://packages.example.org/debian/dists/
        cdn edge purge --repository sw.example.org --revision 17
        # everything, in a script
        cdn edge purge --all --yes --no-wait
        """,
    "edge drain": """
        # out of service: clients are told to go elsewhere, answers under way finish
        cdn edge drain
        # while it can still be taken back
        cdn edge drain --undo
        # and end the process when it is done
        cdn edge drain --stop
        """,
    "edge upgrade": """
        cdn edge upgrade
        cdn edge upgrade --admin http://127.0.0.1:9155 --json
        """,
    "geodns run": "cdn geodns run --config /etc/stratocast/geodns.toml",
    "geodns check-config": "cdn geodns check-config --config /etc/stratocast/geodns.toml",
    "geodns lookup": """
        cdn geodns lookup edge.example.org --from 203.0.113.7 --config geodns.toml
        # and if an edge were down?
        cdn geodns lookup edge.example.org --from 203.0.113.7 \\
            --config geodns.toml --down edge1.chicago
        """,
    "geodns status": "cdn geodns status --admin http://127.0.0.1:9153",
    "demo": """
        cdn demo
        # a quick one that stays, to look around in, and the end of it
        cdn demo --files 300 --keep
        cdn demo --stop /tmp/stratocast-demo-x1y2z3
        """,
    "completion": """
        # once, then open a new shell
        cdn completion bash > ~/.local/share/bash-completion/completions/cdn
        cdn completion zsh > "${fpath[1]}/_cdn"
        cdn completion fish > ~/.config/fish/completions/cdn.fish
        """,
}
"""By the command's words; what has none is a group whose commands say it all."""


def add_examples(command: click.Command, words: str) -> click.Command:
    """Puts the examples at the end of a command's help and of every command's below it, and returns it."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            add_examples(below, f"{words} {name}")
    if (text := EXAMPLES.get(words)) is not None:
        # \b keeps click from filling the lines.
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines_of(text))
    return command


def lines_of(text: str) -> list[str]:
    """The lines of an entry of the table, without the indentation it has there."""
    from inspect import cleandoc

    return cleandoc(text).splitlines()
