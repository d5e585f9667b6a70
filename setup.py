"""Build of the wheel: puts the folders that lie beside the package in a checkout inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED_FOLDERS = ("migrations", "monitoring", "systemd")  # read through catalyst.installation.shipped_folder


class BuildWithFolders(build_py):
    """Copies the shipped folders into the built package; an editable install reads them where they lie."""

    def run(self) -> None:
        """Build the package, then copy the folders. An older build would add modules that are gone."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED_FOLDERS:
            target = Path(self.build_lib) / "catalyst" / name
            self.mkpath(str(target))
            for path in sorted(Path(name).iterdir()):
                self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithFolders})
