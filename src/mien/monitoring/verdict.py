"""From statistics to a verdict: minimum sample, hysteresis, severity, and the words for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mien.monitoring.log import ANOTHER_MODEL, Window
from mien.monitoring.reference import Reference
from mien.monitoring.statistics import DOMAIN, NO_FACE, Finding, compare
from mien.params.service import MonitoringSettings

Status = Literal["no log", "too few", "ok", "watch", "drift"]


@dataclass(frozen=True)
class Verdict:
    """What a window says of the model in service."""

    status: Status
    """``watch``: findings, but not yet in enough windows to be drift."""
    reason: str
    model: str
    faces: int
    pictures: int
    unfamiliar: int
    """Faces that got no answer since they resemble nothing that the model knows."""
    severity: float = 0.0
    """The largest effect among the findings, 0 to 1."""
    bad_windows: int = 0
    """Windows in a row with findings, this one included."""
    findings: list[Finding] = field(default_factory=list)
    """All statistics; `drifted` says which are findings."""
    start: str | None = None
    end: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def drifted(self) -> list[Finding]:
        """The findings."""
        return [each for each in self.findings if each.drifted]

    @property
    def judged(self) -> bool:
        """Whether there was enough to judge; elsewhere the rows wait for the next window."""
        return self.status in ("ok", "watch", "drift")


def judge(
    window: Window,
    reference: Reference,
    settings: MonitoringSettings,
    bad_windows: int,
    volumes: Sequence[float] = (),
) -> Verdict:
    """Judge a window.

    Args:
        window: rows of the reference's model.
        reference: what it is compared with.
        settings: thresholds.
        bad_windows: windows in a row with findings, up to the one before.
        volumes: pictures an hour in earlier windows, for the note on volume.
    """
    faces = len(window.faces)
    common = {
        "model": reference.version,
        "faces": faces,
        "pictures": window.pictures,
        "unfamiliar": window.unfamiliar,
        "start": window.start,
        "end": window.end,
        "skipped": window.skipped,
        "notes": [*window.notes, *_volume_note(window, volumes)],
    }
    if not window.files:
        reason = "there is no prediction log yet; the service writes one with its first answer"
        return Verdict("no log", reason, bad_windows=bad_windows, **common)  # type: ignore[arg-type]
    findings = compare(window, reference, settings)
    drifted = [each for each in findings if each.drifted]
    # A service that finds no faces at all must not wait for faces in silence.
    silent = bool(drifted) and window.photos >= settings.min_faces
    if faces < settings.min_faces and not silent:
        reason = (
            f"{count(faces, 'face')} since the last window, {settings.min_faces} are needed "
            "(monitoring.min_faces); they wait for the next window"
        )
        if not window.pictures and (others := window.skipped.get(ANOTHER_MODEL)):
            reason += (
                f"; {others} are of another model than {reference.version}, which is watched: "
                "restart the service, or, if it was started with MIEN_MODEL, set that here, too"
            )
        return Verdict("too few", reason, bad_windows=bad_windows, **common)  # type: ignore[arg-type]
    severity = max((each.effect for each in drifted), default=0.0)
    bad = bad_windows + 1 if drifted else 0
    status: Status = "ok"
    if drifted:
        sure = bad >= settings.bad_windows or severity >= settings.severe_effect
        status = "drift" if sure else "watch"
    return Verdict(
        status,
        _reason(status, drifted, severity, bad, settings),
        severity=severity,
        bad_windows=bad,
        findings=findings,
        **common,  # type: ignore[arg-type]
    )


def _reason(
    status: Status, drifted: list[Finding], severity: float, bad: int, settings: MonitoringSettings
) -> str:
    if status == "ok":
        return "no statistic differs from the reference"
    what = ", ".join(tell(each) for each in drifted[:4])
    more = f" and {len(drifted) - 4} more" if len(drifted) > 4 else ""
    if severity >= settings.severe_effect:
        how = "so large that one window is enough"
    elif status == "drift":
        how = f"in {count(bad, 'window')} in a row"
    else:
        how = f"in {bad} of the {settings.bad_windows} windows that make drift of it"
    return f"{what}{more}; {how}"


def tell(finding: Finding) -> str:
    """A finding in a few words."""
    before, after = read(finding)
    effect = f"effect {finding.effect:.2f}"
    if finding.name == NO_FACE:
        return f"{finding.name} {after} ({before}, {effect})"
    compared = f" {before} → {after}" if before and after else ""
    return f"{finding.name}{compared} ({effect})"


def read(finding: Finding) -> tuple[str, str]:
    """Reference and window of a finding for people, such as ``AUC 0.5`` and ``0.991``."""
    before, after = (
        "" if value is None else _rounded(value) for value in (finding.reference, finding.window)
    )
    what = {NO_FACE: "limit ", DOMAIN: "AUC "}.get(finding.name, "")
    return what + before, after


def count(number: int, what: str) -> str:
    """So many of something, such as ``1 face`` and ``2 faces``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _rounded(value: float) -> str:
    """To four digits, to three places at most, and zero without a sign."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{round(value, 3) + 0.0:.4g}"


def volume(window: Window) -> float | None:
    """Pictures an hour; None where the rows' times do not say."""
    from datetime import datetime

    try:
        span = datetime.fromisoformat(window.end or "") - datetime.fromisoformat(window.start or "")
    except (ValueError, TypeError):
        return None
    seconds = span.total_seconds()
    return 3600 * window.pictures / seconds if seconds > 0 else None


def _volume_note(window: Window, volumes: Sequence[float]) -> list[str]:
    """Traffic that differs much is worth a word, but it is no reason to train anew."""
    now = volume(window)
    if now is None or len(volumes) < 5:
        return []
    usual = sorted(volumes)[len(volumes) // 2]
    if usual / 3 <= now <= usual * 3:
        return []
    return [f"volume: {now:.0f} pictures an hour, usually {usual:.0f}"]
