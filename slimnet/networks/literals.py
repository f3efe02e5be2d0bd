"""``name(64, act="relu")``: a name and literal arguments, read without evaluating anything."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from slimnet.errors import InputError

_CALL = re.compile(r"(?P<name>.*?:[\w.]+)(?P<call>\(.*\))", re.DOTALL)


def read_call(spec: str) -> tuple[str, dict[str, Any], tuple[Any, ...]]:
    """The name, the options and the positional arguments; raises InputError for anything else."""
    match = _CALL.fullmatch(spec)
    if match is None:
        return spec, {}, ()
    try:
        call = ast.parse(f"_{match['call']}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("more than one call")
        options = {str(row.arg or "**"): ast.literal_eval(row.value) for row in call.keywords}
        args = tuple(ast.literal_eval(entry) for entry in call.args)
        json.dumps([options, args])  # a slim.pt keeps them as JSON
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{spec!r}: the arguments of an architecture are literal numbers, texts, lists and "
            "dicts, as in file.py:Net(64, act='relu')"
        ) from error
    return match["name"], options, args
