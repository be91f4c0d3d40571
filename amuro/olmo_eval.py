"""The package `olmo_eval` of a wheel, for `python -m olmo_eval.run_lm_eval`: its modules are in amuro/eval."""

from amuro import FOLDER, prepare

prepare()
__path__ = [str(FOLDER / "eval" / "olmo_eval")]
