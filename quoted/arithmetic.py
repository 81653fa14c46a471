"""What `docs/results/arithmetic.md` quotes."""

from quoted.pages import Page
from quoted.records import Number, Study, ahead, bound
from quoted.temperature import shares

CE, PRECISION, DIVERSITY = "cross_entropy", "precision_product", "diversity_product"
TAIL, MATCHED = "tail_penalty", "matched_temperature"

study, sums = Study("arithmetic"), Study("cpu-midtrain")
entropy = {arm: study.held_out("entropy", arm) for arm in (PRECISION, DIVERSITY)}
nll = {arm: study.held_out("nll", arm) for arm in (PRECISION, DIVERSITY)}
reward = {arm: study.effect("reward", arm) for arm in (PRECISION, TAIL, MATCHED)}
after = {arm: study.effect("avg@64", arm, stage="eval_rlvr") for arm in (PRECISION, TAIL)}
over = {
    (metric, stage): study.effect(metric, PRECISION, MATCHED, stage)
    for metric, stage in (
        ("reward", "rlvr"),
        *((metric, stage) for metric in ("avg@64", "pass@64") for stage in study.results["settings"]),
    )
}
length = study.effect("length_change", DIVERSITY)
policy_entropy = study.effect("entropy_change", DIVERSITY)
before = {
    regime: sums.effect("avg@64", PRECISION, MATCHED, "eval_midtrain", regime) for regime in "PD"
}
lead = study.evaluations("eval_midtrain", PRECISION) - study.evaluations("eval_midtrain", MATCHED)
share = shares["arithmetic", ""]

PAGE = Page(
    "docs/results/arithmetic.md",
    quotes=[
        f"{study.seeds} seeds and {study.runs} runs ({study.date}, commit {study.commit})",
        f"| entropy is ordered by β at equal perplexity | β −0.25: {entropy[PRECISION]:+.1f}% "
        f"{entropy[PRECISION]:[.1f]}, NLL {nll[PRECISION]:+.1f}% {nll[PRECISION]:[.1f]}; "
        f"β 0.5: {entropy[DIVERSITY]:+.1f}% {entropy[DIVERSITY]:[.1f]}, "
        f"NLL {nll[DIVERSITY]:+.1f}% {nll[DIVERSITY]:[.1f]} "
        f"| **{study.verdict('entropy_order')}** |",
        f"| a precision prior gives better RL | reward {reward[PRECISION]:+.1f} points "
        f"{reward[PRECISION]:[.1f]} (p = {study.p('reward', PRECISION):.2f}), "
        f"avg@64 after RL {after[PRECISION]:+.1f} {after[PRECISION]:[.1f]} "
        f"| {study.verdict('precision_rl')} |",
        f"of the same entropy does | reward {over['reward', 'rlvr']:+.1f} "
        f"{over['reward', 'rlvr']:[.1f]}, avg@64 {over['avg@64', 'eval_rlvr']:+.1f} "
        f"{over['avg@64', 'eval_rlvr']:[.1f]} | {study.verdict('shape_or_temperature')} |",
        f"| tail suppression helps RL | reward {reward[TAIL]:+.1f} {reward[TAIL]:[.1f]}, "
        f"avg@64 {after[TAIL]:+.1f} {after[TAIL]:[.1f]} | {study.verdict('tail_suppression')} |",
        f"minus cross-entropy's: length {length:+.1f} {length:[.1f]}, entropy {policy_entropy:+.1f} "
        f"{policy_entropy:[.1f]} | **{study.verdict('entropy_collapse')}**, by length alone |",
        f"they lengthen by {length:.1f} points more than those of cross-entropy "
        f"(p = {study.p('length_change', DIVERSITY):.3f})",
        f"(T = {study.temperature(MATCHED):.2f} on average) gains {reward[MATCHED]:.1f} points of "
        f"reward {reward[MATCHED]:[.1f]} of the {reward[PRECISION]:.1f} that precision gains, "
        f"which is a share of {share.bootstrap:.0f}%",
        f"a bootstrap over the seeds gives {share.bootstrap:[.0f]}, and Fieller's interval is "
        f"{share.fieller:[.0f]}",
        f"its avg@64 is {over['avg@64', 'eval_midtrain']:.1f} points higher "
        f"{over['avg@64', 'eval_midtrain']:[.1f]}, in {ahead(lead)} of {Number(len(lead))} seeds "
        f"(p < {bound(study.p('avg@64', PRECISION, MATCHED, 'eval_midtrain')):.3f} after correction)",
        f"in pass@64 is {over['pass@64', 'eval_midtrain']:+.1f} points "
        f"{over['pass@64', 'eval_midtrain']:[.1f]}",
        f"the same difference in avg@64 is {before['P']:.1f} points {before['P']:[.1f]} in P, and "
        f"{before['D']:.1f} {before['D']:[.1f]} in D",
        f"After RL the difference in avg@64 is {over['avg@64', 'eval_rlvr']:.1f} points "
        f"{over['avg@64', 'eval_rlvr']:[.1f]}, and pass@64 is {-over['pass@64', 'eval_rlvr']:.1f} "
        f"points lower than with the matched temperature {-over['pass@64', 'eval_rlvr']:[.1f]}",
    ],
)
