"""Unpacks what tch links from the wheels: python3 unpack_libtorch.py WHEELS OUT

Writes OUT.tmp and renames it, so OUT is either whole or not there. Standard library only.
"""
import os
import pathlib
import shutil
import sys
import zipfile

LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}


def main(wheels, out):
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "lib").mkdir(parents=True)
    version = None
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                name, base = entry.filename, os.path.basename(entry.filename)
                if name == "torch/version.py":
                    line = next(l for l in archive.read(name).decode().splitlines() if l.startswith("__version__"))
                    version = line.split("'")[1]
                    continue
                if name.startswith("torch/include/") and base:
                    path = temporary / name[len("torch/"):]
                elif base in LIBRARIES and "/lib/" in name:
                    path = temporary / "lib" / base
                else:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, open(path, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    missing = sorted(name for name in LIBRARIES if not (temporary / "lib" / name).exists())
    if missing or version is None:
        sys.exit(f"the wheels in {wheels} lack {', '.join(missing) or 'torch/version.py'}")
    # tch's link line asks for libtorch.so; torch-sys compares build-version with the version it was made for.
    (temporary / "lib" / "libtorch.so").symlink_to("libtorch_cpu.so")
    (temporary / "build-version").write_text(version + "\n")
    if out.is_symlink():
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
