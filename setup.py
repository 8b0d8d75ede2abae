"""What the wheel holds: the code, and ``conf/`` and ``examples/`` inside the package.

Both lie beside the package in a checkout; all else about the project stands in pyproject.toml.
"""

from setuptools import find_packages, setup

SHIPPED = {"sdlora.conf": "conf", "sdlora.examples": "examples"}

setup(
    packages=[*find_packages(include=["sdlora*"]), "hydra_plugins", *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "sdlora": ["assets/**/*"],
        "sdlora.reports": ["template/*"],
        **dict.fromkeys(SHIPPED, ["**/*"]),
    },
)
