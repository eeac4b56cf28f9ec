import importlib
import json
import pkgutil
import subprocess
import sys

import speechbus_contracts

IMPORT = """
import json, sys
before = set(sys.modules)
import speechbus_contracts
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_the_package_exports_what_its_modules_export() -> None:
    """Readers import from one place and find everything there, and nothing private."""
    modules = [
        importlib.import_module(f"speechbus_contracts.{module.name}")
        for module in pkgutil.iter_modules(speechbus_contracts.__path__)
    ]
    exported = [name for module in modules for name in module.__all__]

    assert sorted(speechbus_contracts.__all__) == sorted(exported)
    assert len(set(exported)) == len(exported)
    assert all(hasattr(speechbus_contracts, name) for name in exported)


def test_importing_the_package_loads_msgspec_and_little_else() -> None:
    """Other teams depend on it: no second library, and no event loop in a program without one."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT], capture_output=True, check=True, text=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}

    # msgspec itself looks for typing_extensions, and does without.
    others = loaded - sys.stdlib_module_names - {"typing_extensions"}

    assert others == {"speechbus_contracts", "msgspec"}
    assert not loaded & {"asyncio", "socket", "ssl", "logging", "threading", "multiprocessing"}
