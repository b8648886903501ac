# Make (once) and enter the virtual environment .venv beside this checkout; source it, do not run it.
# MMSEOL_VENV names another folder, PYTHON the interpreter to make it with.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
MMSEOL_VENV=${MMSEOL_VENV:-.venv}
MMSEOL_VENV=$(realpath -m "$MMSEOL_VENV")
if [ ! -f "$MMSEOL_VENV/ready" ]; then
    echo "Installing into $MMSEOL_VENV: about 5 GB, some minutes, once."
    "${PYTHON:-python3}" -m venv "$MMSEOL_VENV"
    "$MMSEOL_VENV/bin/python" -m pip install --quiet --upgrade pip setuptools wheel
    # torch and torchvision first and together, so that pip picks a pair of builds that fit each other.
    "$MMSEOL_VENV/bin/python" -m pip install --quiet torch torchvision
    "$MMSEOL_VENV/bin/python" -m pip install --quiet --editable ".[mminstall,dev]"
    touch "$MMSEOL_VENV/ready"
fi
PATH="$MMSEOL_VENV/bin:$PATH"
