"""JUnit XML: one test case a row."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from stmdeploy.check.formats import words
from stmdeploy.check.outcome import FAILED, CheckResult
from stmdeploy.check.verdict import Verdict

#: What XML 1.0 has no way to write.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(result: CheckResult) -> bytes:
    """A test suite. A regression or differing outputs are failures, a worker that failed is an
    error, and so is a row that cannot tell, unless the check lets that pass; then it is skipped."""
    rows = result.rows
    passes = result.cannot_tell == "pass"
    suite = ET.Element("testsuite", name="stmdeploy check", timestamp=result.created_utc[:19])
    counts = dict.fromkeys(("failures", "errors", "skipped"), 0)
    for row in rows:
        case = ET.SubElement(
            suite, "testcase", classname="stmdeploy.check", name=_written(row.name),
            time=f"{row.measured_s:.3f}",
        )  # fmt: skip
        text = _written(words.sentence(row))
        if not words.is_good(row):
            kind, counted = _kind(row.verdict, passes=passes)
            counts[counted] += 1
            ET.SubElement(case, kind, message=text, type=row.verdict)
        ET.SubElement(case, "system-out").text = text
    suite.attrib |= {
        "tests": str(len(rows)),
        **{name: str(count) for name, count in counts.items()},
        "time": f"{sum(row.measured_s for row in rows):.3f}",
    }
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document


def _kind(verdict: str, *, passes: bool) -> tuple[str, str]:
    if verdict == Verdict.CANNOT_TELL and passes:
        return "skipped", "skipped"
    if verdict in (FAILED, Verdict.CANNOT_TELL):
        return "error", "errors"
    return "failure", "failures"


def _written(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)
