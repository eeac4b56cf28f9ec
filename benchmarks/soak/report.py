"""What a soak found, as text that can be put into benchmarks/README.md."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.soak.memory import LogReport, read_logs
from benchmarks.soak.run import Finding, Result
from benchmarks.soak.system import Struck
from speechbus_contracts import AnyEvent
from tests.support.frame_numbers import FRAME_MS

__all__ = ["print_report"]

FIELDS: Final = (
    *("epoch", "index", "revision", "reason", "worker", "provider", "from_ms", "to_ms", "start_ms"),
    *("end_ms", "covered_ms", "text", "audio_ms", "finals", "gap_ms"),
)
AROUND_S: Final = 40.0
TRACEBACKS_MAX: Final = 20


def print_report(result: Result, *, folder: Path, log_folder: Path) -> bool:
    """Print tables, and write what is wrong in full into the folder; return whether all is well."""
    logs = read_logs(log_folder)
    _print_streams(result)
    _print_strikes(result.struck, skipped=result.skipped)
    _print_memory(result)
    print("\nevents logged as errors: " + (_count(logs.errors) or "none"))
    problems = [*result.problems, *logs.tracebacks]
    for problem in problems[:TRACEBACKS_MAX]:
        print(f"\n{problem}")
    _write_findings(result, logs, folder)
    is_good = not result.findings and not problems
    if not is_good:
        print(
            f"\n**{len(result.findings)} streams and {len(problems)} other things are wrong**,"
            f" see {folder / 'problems.txt'}"
        )
    return is_good


def _print_streams(result: Result) -> None:
    verdicts = result.verdicts
    lost_s = sum(verdict.missing for verdict in verdicts) * FRAME_MS / 1000
    doubled_s = sum(verdict.doubled for verdict in verdicts) * FRAME_MS / 1000
    sorts = Counter(f"{told.plan.door}/{told.plan.manner}" for told in result.told)
    cut = Counter(told.lost for told in result.told if told.lost)
    audio_h = sum(verdict.frames for verdict in verdicts) * FRAME_MS / 3_600_000
    rows = {
        "time": f"{result.seconds / 60:.1f} min, about {result.n_streams} streams at a time",
        "streams": f"{len(verdicts)} ({_count(sorts)})",
        "clients that were cut off": _count(cut) or "none",
        "closed for": _count(result.closed_for),
        "numbered audio accepted": f"{audio_h:.2f} h",
        "claims": f"{sum(verdict.claims for verdict in verdicts)}",
        "lives of the simulators": _count(result.sessions_lived),
        "lost": f"{lost_s:.2f} s",
        "doubled": f"{doubled_s:.2f} s",
        "largest time error": f"{max((v.time_error_ms for v in verdicts), default=0)} ms",
        "in gaps": f"{sum(verdict.gap_ms for verdict in verdicts) / 1000:.2f} s",
        "streams with a problem": str(len(result.findings)),
    }
    print("\n| soak | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def _print_strikes(struck: Sequence[Struck], *, skipped: int) -> None:
    kinds = Counter(each.kind for each in struck)
    print("\n| what was struck | times |\n|---|---|")
    for kind, count in sorted(kinds.items()):
        print(f"| {kind.replace('_', ' ')} | {count} |")
    print(f"| planned, and left out because nothing was there to strike | {skipped} |")


def _print_memory(result: Result) -> None:
    memory = result.memory
    print("\n| memory (PSS) | early | at the end | most |\n|---|---|---|---|")
    for name, most_kb in sorted(memory.most.items()):
        early_kb, late_kb = memory.early.get(name, 0), memory.late[name]
        print(f"| {name} | {early_kb >> 10} MB | {late_kb >> 10} MB | {most_kb >> 10} MB |")


def _count(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _write_findings(result: Result, logs: LogReport, folder: Path) -> None:
    parts = [_describe(finding, result.struck) for finding in result.findings]
    (folder / "problems.txt").write_text(
        "\n\n".join([*parts, *result.problems, *logs.tracebacks]), encoding="utf-8"
    )
    strikes = "\n".join(each.describe() for each in result.struck)
    (folder / "strikes.txt").write_text(strikes, encoding="utf-8")
    if parts:
        print(f"\n{parts[0]}")


def _describe(finding: Finding, struck: Sequence[Struck]) -> str:
    around = [
        each.describe()
        for each in struck
        if each.began_s < finding.ended_s + AROUND_S
        and (each.ended_s is None or each.ended_s > finding.began_s - AROUND_S)
    ]
    return "\n".join(
        [
            f"## {finding.stream_id}, {finding.began_s:.1f} to {finding.ended_s:.1f} s",
            finding.plan,
            *(f"- {problem}" for problem in finding.problems),
            "events:",
            *(f"  {_spell(event)}" for event in finding.events),
            "strikes around it:",
            *(f"  {line}" for line in around),
        ]
    )


def _spell(event: AnyEvent) -> str:
    fields = (f"{name}={getattr(event, name)}" for name in FIELDS if hasattr(event, name))
    return f"{type(event).__name__} {' '.join(fields)}"
