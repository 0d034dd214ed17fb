"""The paths of the user's shell are no concern of the tests: they are forgotten before anything reads them."""

import os

for _name in [name for name in os.environ if name.startswith("MODALTUNE_")]:
    del os.environ[_name]
os.environ["MODALTUNE_SKIP_SETUP"] = "1"  # scripts that a test starts use the environment of the tests
