"""Print the versions of everything in this environment but the package itself, as constraints for pip."""

from __future__ import annotations

from importlib import metadata

TOOLS = {"astprompter", "pip", "setuptools", "wheel"}


def main() -> None:
    """A line per package, in order; a local version (``+cpu``) is left out, so that pins hold on every machine."""
    found = {dist.metadata["Name"].lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
    print("# Versions that the Makefile and CI install ('make pins' writes them); the package itself declares ranges.")
    for name in sorted(found.keys() - TOOLS):
        print(f"{name}=={found[name].partition('+')[0]}")


if __name__ == "__main__":
    main()
