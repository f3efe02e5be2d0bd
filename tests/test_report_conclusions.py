"""What may be concluded, as the terminal and the page say it."""

import re

from test_report_html import text_of
from test_study_verdicts import SCRATCH, SIX, above, study_of

from slimnet.report import NetworkReport, Report, render, slim_networks, verdict_lines
from slimnet.report.conclusions import conclusions

FEW = {("l1", "finetune"): above([0.1, 0.2, 0.3]), ("l1", "scratch-e"): above([0.0] * 3)}


def many(seeds=6):
    """Nine criteria, each far above random."""
    names = ("random", "l1", "l2", "fpgm", "bn-scale", "taylor", "gradient", "apoz", "obs")
    rows = {}
    for number, name in enumerate(names):
        rows[name, "finetune"] = above([value + 0.1 * number for value in SIX[:seeds]])
        rows[name, "scratch-e"] = above([0.0] * seeds)
    return study_of(rows)


def test_three_seeds_are_told_what_they_cannot_say():
    *_, how, few = verdict_lines(study_of(FEW))
    assert "Benjamini-Hochberg" in how and "after the last epoch" in how
    assert few.startswith("3 seeds can never reach 5 %: if all agree, p is 0.25. 6 could")
    assert "in 75 % of all cases at best" in few


def test_one_seed_is_told_too():
    rows = {key: row[:1] for key, row in FEW.items()}
    assert verdict_lines(study_of(rows))[-1].startswith("One seed can never decide: 6 at least")


def test_enough_seeds_need_no_warning():
    rows = {("l1", "finetune"): above([0.1 * n for n in range(1, 9)])}
    assert not any(
        "seeds can" in line or "seeds tell" in line for line in verdict_lines(study_of(rows))
    )


def test_many_verdicts_are_summed_up():
    results = many()
    found = {answer.title: answer for answer in conclusions(results).answers}
    inherited, dense, criteria = found.values()
    assert inherited.summary == [
        f"fine-tuned against {SCRATCH}: better in 9 of 9 (by 0.4 to 1.2 points)"
    ]
    assert dense.summary == [
        "fine-tuned against the dense network: better in 9 of 9 (by 0.4 to 1.2 points)",
        "from scratch, same epochs against the dense network: the same in 9 of 9",
    ]
    assert criteria.summary[0] == "l1 against random: better in 1 of 1 (by 0.1 points)"
    lines = verdict_lines(results)
    assert f"  {inherited.summary[0]}." in lines
    assert len(lines) < 30


def test_nothing_to_compare_says_nothing():
    results = study_of({(None, "finetune"): [None]})
    assert verdict_lines(results) == []


def page(results):
    network = NetworkReport("net", results.dense.facts, slim_networks(results), results)
    return render(Report("A study", "slimnet compare net.pt", [network]))


def test_the_page_says_the_verdicts_before_any_table():
    html = page(study_of(FEW))
    verdicts, table = html.index('<ul class="verdicts">'), html.index("<table>")
    assert verdicts < table and verdicts < html.index("<figure")
    text = text_of(html)
    assert "cannot tell from 3 seeds whether inherited weights help against" in text
    assert "3 seeds can never reach 5 %" in text
    assert text.index("slimnet compare net.pt") > text.index("What may be concluded")


def test_a_large_study_has_a_page_under_two_megabytes():
    names = [f"criterion-{number}" for number in range(40)]
    regimes = ("finetune", "scratch-e", "scratch-b", "lr-rewind")
    curve = {"losses": tuple(1 / (n + 1) for n in range(160))}
    rows = {(name, regime): above(SIX) for name in names for regime in regimes}
    html = page(study_of(rows, **{regime.replace("-", "_"): curve for regime in regimes}))
    assert len(html.encode()) < 2_000_000
    assert re.search(r"\d+ more are in results.json", html)
    assert "Of 160 lines the first 30 are drawn." in html
