"""What a wheel is built from, so that a test can build one outside the checkout."""

SOURCES = (
    "catalyst",
    "migrations",
    "monitoring",
    "systemd",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
