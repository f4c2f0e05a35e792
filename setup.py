"""Which folders become the package. Everything else about it is in pyproject.toml."""

from setuptools import find_packages, setup

# The data lies beside the package in a checkout, where readers look for it, and inside it once
# installed: the folder data/ is installed as minirlhf/data/.
setup(
    packages=[*find_packages(include=["minirlhf*"]), "minirlhf.data"],
    package_dir={"minirlhf.data": "data"},
    package_data={
        "minirlhf.data": ["*.json", "*.jsonl", "base/*", "base_assistant/*"],
        "minirlhf.play": ["static/*"],
    },
)
