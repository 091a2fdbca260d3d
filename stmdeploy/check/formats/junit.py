"""JUnit XML: a test case for each row."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from stmdeploy.check.formats import words
from stmdeploy.check.outcome import FAILED, CheckResult
from stmdeploy.check.verdict import Verdict

#: Characters that XML 1.0 cannot hold.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(result: CheckResult) -> bytes:
    """A test suite. A regression or differing outputs are failures; a failed worker is an error,
    and so is a row that cannot tell, unless the check lets that pass, which skips it."""
    rows = result.rows
    suite = ET.Element("testsuite", name="stmdeploy check", timestamp=result.created_utc[:19])
    for row in rows:
        case = ET.SubElement(
            suite, "testcase", classname="stmdeploy.check", name=_written(row.name),
            time=f"{row.measured_s:.3f}",
        )  # fmt: skip
        text = _written(words.sentence(row))
        if not words.is_good(row):
            kind = _kind(row.verdict, passes=result.cannot_tell == "pass")
            ET.SubElement(case, kind, message=text, type=row.verdict)
        ET.SubElement(case, "system-out").text = text
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite.attrib |= {
        "tests": str(len(rows)),
        **{name: str(len(suite.findall(f"testcase/{kind}"))) for name, kind in kinds.items()},
        "time": f"{sum(row.measured_s for row in rows):.3f}",
    }
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document


def _kind(verdict: str, *, passes: bool) -> str:
    if verdict == Verdict.CANNOT_TELL and passes:
        return "skipped"
    return "error" if verdict in (FAILED, Verdict.CANNOT_TELL) else "failure"


def _written(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)
