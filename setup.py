"""Everything else is in pyproject.toml. Here: top-level folders of the checkout that become folders of the package."""

from setuptools import find_packages, setup

FOLDERS = {
    "wlsweep.search_spaces": "search_spaces",
    "wlsweep.sites": "cluster/sites",
    "wlsweep.locks": "locks",
}

setup(packages=[*find_packages(include=["wlsweep", "wlsweep.*"]), *FOLDERS], package_dir=FOLDERS)
