"""Encryption of a backup with age or gpg, whichever the recipient's key belongs to."""

import shutil
from pathlib import Path
from typing import Final

from catalyst.backup.programs import run_program
from catalyst.domain.errors import UserError

_AGE_RECIPIENTS: Final = ("age1", "ssh-ed25519 ", "ssh-rsa ")


def encryption_program(recipient: str) -> Path:
    """Return the program for a recipient: age for its keys and for SSH keys, else gpg. Raises UserError."""
    name = "age" if recipient.startswith(_AGE_RECIPIENTS) else "gpg"
    return _find(name)


def encrypt(path: Path, recipient: str) -> Path:
    """Write the encrypted file beside `path`, with `.age` or `.gpg` behind its name; return it. Raises UserError."""
    program = encryption_program(recipient)
    target = path.with_name(f"{path.name}.{program.name}")
    target.unlink(missing_ok=True)
    arguments = (
        ["--recipient", recipient, "--output", str(target), str(path)]
        if program.name == "age"
        else [
            *("--batch", "--quiet", "--trust-model", "always", "--recipient", recipient),
            *("--output", str(target), "--encrypt", str(path)),
        ]
    )
    run_program(program, arguments)
    return target


def decrypt(path: Path, target: Path, *, identity: Path | None) -> None:
    """Write the decrypted content of `path`, which ends with .age or .gpg, to `target`. Raises UserError.

    `identity`: the file of age's secret key; gpg uses its own keyring and agent.
    """
    program = _find(path.suffix.removeprefix("."))
    if program.name == "age":
        if identity is None:
            raise UserError(f"{path.name} is encrypted with age: name the file of its key with --identity")
        arguments = ["--decrypt", "--identity", str(identity), "--output", str(target), str(path)]
    else:
        arguments = ["--quiet", "--yes", "--output", str(target), "--decrypt", str(path)]
    run_program(program, arguments)


def _find(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        package = "gnupg" if name == "gpg" else name
        raise UserError(f"there is no program {name}: install the package {package}")
    return Path(found)
