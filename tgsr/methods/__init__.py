"""One room per paper; rooms never import each other. Importing this package registers what all of them offer.

A room, and each file of it, is found by name: a fifth paper is one more folder here.
"""

import importlib
import pkgutil

for _module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
    importlib.import_module(_module.name)
