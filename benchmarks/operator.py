"""Measures the operator on the cluster that KUBECONFIG names: `python benchmarks/operator.py [--resources 200]`.

The file is named as its command is documented; the work is in operator_control.py. The guard below is there because
a script's folder comes first on the import path, where this file would stand in for the standard library's operator.
"""

import sys

if __name__ == "__main__":
    here = sys.path.pop(0)
    import runpy

    runpy.run_path(f"{here}/operator_control.py", run_name="__main__")
else:
    import os  # the interpreter has it already; most other modules would want the real operator

    with open(os.path.join(os.path.dirname(os.__file__), "operator.py"), encoding="utf-8") as _file:
        exec(compile(_file.read(), _file.name, "exec"))
