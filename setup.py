"""What pyproject.toml can't say: what the package needs, and the templates that `rollouts init` copies."""

from pathlib import Path
from shutil import copyfile, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import FileError

HERE = Path(__file__).parent
TEMPLATES = {"dags": "*.py", "expectations": "*.json", "reports/grafana": "*.json"}


def product() -> list[str]:
    """The requirements of the product alone: those above the demo's and the tests'."""
    text = (HERE / "requirements.in").read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip() for line in text.split("# --- the demo")[0].splitlines())
    return [line for line in lines if line]


class BuildWithTemplates(build_py):
    """Puts the DAGs and the suites of checks into the package; an editable install reads them where they are."""

    def run(self) -> None:
        """Build, then copy.

        Raises:
            FileError: A folder has none of its files: the wheel would look whole, and `rollouts init` would not work.
        """
        if self.editable_mode:
            super().run()
            return
        found = {folder: sorted((HERE / folder).glob(files)) for folder, files in TEMPLATES.items()}
        for folder, files in TEMPLATES.items():
            if not found[folder]:
                raise FileError(
                    f"{HERE / folder} has no {files}; build from a whole checkout or an sdist (MANIFEST.in)"
                )
        rmtree(self.build_lib, ignore_errors=True)  # a file that is gone must not be in the next wheel
        super().run()
        for folder, paths in found.items():
            target = Path(self.build_lib) / "model_rollouts" / "templates" / folder
            target.mkdir(parents=True, exist_ok=True)
            for file in paths:
                copyfile(file, target / file.name)


# Beside the sources, the folder of metadata would be found a second time: by Airflow, too, as a second plugin.
scratch = HERE / ".local" / "build"
scratch.mkdir(parents=True, exist_ok=True)
# The last build's list would be taken into the next sdist, and hide what MANIFEST.in lacks.
(scratch / "model_rollouts.egg-info" / "SOURCES.txt").unlink(missing_ok=True)

setup(
    cmdclass={"build_py": BuildWithTemplates},
    install_requires=product(),
    options={"egg_info": {"egg_base": str(scratch)}, "build": {"build_base": str(scratch)}},
)
