"""Named lists of hosts for the allow-list of sandboxes (`MUSTER_EGRESS_ALLOWED`, `muster up --allow`).

A preset contains only hosts that a package manager or git needs to read. Hosts that only accept uploads, such as
`upload.pypi.org` and `crates.io`, are left out. Hosts from which anyone can serve anything, such as
`storage.googleapis.com`, are left out too. Ports are 80 and 443.
"""

from collections.abc import Mapping
from typing import Final

REGISTRIES: Final[Mapping[str, tuple[str, ...]]] = {
    "pypi": ("pypi.org", "files.pythonhosted.org"),
    "npm": ("registry.npmjs.org", "registry.yarnpkg.com"),
    "crates": ("index.crates.io", "static.crates.io"),
    "go": ("proxy.golang.org", "sum.golang.org"),
    "maven": ("repo.maven.apache.org", "repo1.maven.org"),
    "rubygems": ("rubygems.org", "index.rubygems.org"),
    "debian": ("deb.debian.org", "security.debian.org"),
    "ubuntu": ("archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com"),
    "alpine": ("dl-cdn.alpinelinux.org",),
    "conda": ("conda.anaconda.org", "repo.anaconda.com"),
}
"""The presets of package registries."""
FORGES: Final[Mapping[str, tuple[str, ...]]] = {
    "github": (
        "github.com",
        "api.github.com",
        "codeload.github.com",
        "raw.githubusercontent.com",
        "objects.githubusercontent.com",
        "release-assets.githubusercontent.com",
    ),
    "gitlab": ("gitlab.com",),
    "codeberg": ("codeberg.org",),
    "bitbucket": ("bitbucket.org", "api.bitbucket.org"),
}
"""The presets of forges. Anyone can push to an own repository there, so no forge is allowed by default."""
PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    **REGISTRIES,
    **FORGES,
    "registries": tuple(host for hosts in REGISTRIES.values() for host in hosts),
    "forges": tuple(host for hosts in FORGES.values() for host in hosts),
}
"""The hosts of each preset, by the name of the preset. `registries` and `forges` contain the presets of their kind."""
DEFAULT: Final = "registries"
"""The allow-list of a deployment that sets none."""
