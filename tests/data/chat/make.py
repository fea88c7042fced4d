"""Writes the expected renderings with Jinja2, configured as Hugging Face's tokenizers configure it.

Run by hand after a change of a template or of the conversations: python3 make.py (needs jinja2).
"""
import datetime, json, pathlib
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.exceptions import TemplateError

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 7, 4, 13, 5, 9)


class Refused(Exception):
    pass


def raise_exception(message):
    raise Refused(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = NOW.strftime

cases = json.loads((HERE / "conversations.json").read_text())
out = {}
for path in sorted(HERE.glob("*.jinja")):
    template = env.from_string(path.read_text())
    for name, case in cases.items():
        for text in [False, True]:
            variables = json.loads(json.dumps(case))
            if text:
                for message in variables["messages"]:
                    for call in message.get("tool_calls", []):
                        call["function"]["arguments"] = tojson(call["function"]["arguments"])
            try:
                got = template.render(bos_token="<BOS>", eos_token="<EOS>", **variables)
            except Refused as error:
                got = {"refused": str(error)}
            except (TemplateError, TypeError):
                # Templates that put the arguments of a call into text want them as text.
                if not text:
                    continue
                raise
            out.setdefault(path.stem, {})[name] = got
            break
(HERE / "expected.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
