"""Run the project's scripts by name, from any folder: `amuro finetune …`; `amuro` lists them.

    amuro run_study my_study.yaml --dry_run
    accelerate launch --num_processes 4 -m amuro finetune …
    cp "$(amuro --folder)"/scripts/studies/tiny.yaml .

In the repository this package lies beside `open_instruct`, `eval`, `analysis` and `scripts`. The wheel has them inside
it, so that it adds no module of such a common name to an environment; `prepare` puts them on the module path.
"""

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
IS_INSTALLED = (HERE / "open_instruct").is_dir()
FOLDER = HERE if IS_INSTALLED else HERE.parent
"""The folder of `open_instruct`, `eval`, `analysis` and `scripts`."""
ROOMS = ("open_instruct", "open_instruct/olmo_hf", "eval", "eval/olmo_eval", "analysis", "scripts")
"""The folders that have scripts."""


def main() -> None:
    prepare()
    match sys.argv[1:]:
        case [] | ["-h" | "--help"]:
            print_scripts()
        case ["--folder"]:
            print(FOLDER)
        case [name, *arguments]:
            run(name.removesuffix(".py"), arguments)


def prepare() -> None:
    """Make the packages importable, here and in processes started from here.

    Installed, outputs go to the folder where the program was started, unless base_dir names another.
    """
    own = [str(FOLDER), str(FOLDER / "eval")]
    # Before the folder where `python -m amuro` was started, which may have an eval.py.
    sys.path[:] = [*own, *(part for part in sys.path if part not in own)]
    if IS_INSTALLED:
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part not in own]
        os.environ["PYTHONPATH"] = os.pathsep.join([*own, *inherited])
        os.environ["base_dir"] = os.environ.get("base_dir") or os.getcwd()


def scripts() -> dict[str, Path]:
    """Name -> file of every script."""
    files = [path for room in ROOMS for path in sorted((FOLDER / room).glob("[!_]*.py"))]
    return {path.stem: path for path in files if 'if __name__ == "__main__":' in path.read_text()}


def print_scripts() -> None:
    print("usage: amuro SCRIPT [options]; amuro SCRIPT --help; amuro --folder prints where the scripts are\n")
    for name, path in scripts().items():
        print(f"  {name:24}{summary(path)}")


def summary(path: Path) -> str:
    """The first line of a script's docstring; the script is not imported."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def run(name: str, arguments: list[str]) -> None:
    """Run a script as Python would; exit with code 2 where there is none of this name."""
    known = scripts()
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "`amuro` lists them"
        print(f"error: amuro has no script {name} ({hint})", file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(known[name]), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
