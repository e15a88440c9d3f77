"""KITTI's matching and precision curve, over all frames and score thresholds at once.

The matching of a frame is greedy, label after label. So the labels take turns: the first of every
frame together, at every threshold, then the second of every frame. ``frames/kitti/scoring.py``
states the protocol.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from frames.kitti.overlaps import Pairs

# What a label or a detection is to one class at one difficulty: it counts; it may be matched, and
# then neither it nor its partner counts; it is not there.
COUNTED, IGNORED, ABSENT = 0, 1, -1
# evaluate_object.cpp: N_SAMPLE_PTS.
RECALLS = 41
_UNMATCHED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Labels and detections of all frames as one class at one difficulty sees them.

    Attributes:
        label_frames: Index of each label's frame, ascending.
        label_roles: ``COUNTED``, ``IGNORED`` or ``ABSENT``.
        detection_roles: The same of detections.
        scores: Of the detections.
    """

    label_frames: Int64[np.ndarray, " g"]
    label_roles: Int8[np.ndarray, " g"]
    detection_roles: Int8[np.ndarray, " d"]
    scores: Float64[np.ndarray, " d"]


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision (or orientation similarity) at 41 recalls: the best at that recall or beyond.

    Attributes:
        values: In [0, 1]; 0 at recalls that are not reached.
    """

    values: Float64[np.ndarray, "41"]

    @property
    def r40(self) -> float:
        """Average in percent over recalls 1/40, 2/40 ... 1; KITTI's since 2019."""
        return float(self.values[1:].mean() * 100)

    @property
    def r11(self) -> float:
        """Average in percent over recalls 0, 0.1 ... 1; KITTI's before."""
        return float(self.values[::4].mean() * 100)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Matches at every threshold.

    Attributes:
        labels: Labels that may be matched, m of them.
        hits: Detection that is each label's true positive at each threshold, or -1.
        false_positives: Their number at each threshold.
    """

    labels: Int64[np.ndarray, " m"]
    hits: Int64[np.ndarray, "m t"]
    false_positives: Int64[np.ndarray, " t"]

    def precision(self) -> Curve:
        """True positives among the detections that count."""
        return self._curve((self.hits != _UNMATCHED).sum(axis=0).astype(np.float64))

    def orientation_similarity(
        self, label_alpha: Float64[np.ndarray, " g"], detection_alpha: Float64[np.ndarray, " d"]
    ) -> Curve:
        """Precision where a true positive counts (1 + cos(difference of alpha)) / 2."""
        difference = label_alpha[self.labels, None] - detection_alpha[self.hits]
        similar = np.where(self.hits == _UNMATCHED, 0, (1 + np.cos(difference)) / 2)
        return self._curve(similar.sum(axis=0))

    def _curve(self, gains: Float64[np.ndarray, " t"]) -> Curve:
        counted = (self.hits != _UNMATCHED).sum(axis=0) + self.false_positives
        values = np.zeros(RECALLS)
        values[: len(gains)] = gains / counted.clip(min=1)
        return Curve(np.maximum.accumulate(values[::-1])[::-1])


def match(contest: Contest, pairs: Pairs, excused: Bool[np.ndarray, " d"]) -> Outcome:
    """Match labels and detections at the scores where the sampled recalls are reached.

    Args:
        contest: What counts.
        pairs: Labels and detections that overlap enough for a match.
        excused: Detections that are no false positives when no label takes them.
    """
    rounds = _Rounds.of(contest, pairs)
    everything = np.array([-np.inf])
    best = contest.scores[rounds.detections]
    first = rounds.hits(contest, rounds.play(contest.scores, best, everything))
    found = contest.scores[first[first != _UNMATCHED]]
    thresholds = score_thresholds(found, np.count_nonzero(contest.label_roles == COUNTED))
    # Overlaps are positive, so any detection that counts goes before those that do not.
    counts = contest.detection_roles[rounds.detections] == COUNTED
    chosen = rounds.play(contest.scores, np.where(counts, rounds.overlap, 0), thresholds)
    blamed = (contest.detection_roles == COUNTED) & ~excused
    above = np.sort(contest.scores[blamed])
    called = len(above) - np.searchsorted(above, thresholds, side="left")
    taken = ((chosen != _UNMATCHED) & blamed[chosen]).sum(axis=0)
    return Outcome(rounds.labels, rounds.hits(contest, chosen), called - taken)


def score_thresholds(scores: Float64[np.ndarray, " n"], labels: int) -> Float64[np.ndarray, " t"]:
    """The scores at which recall comes nearest to 0, 1/40 ... 1; at most 41, highest first.

    Args:
        scores: Of true positives when no detection is left out.
        labels: How many labels count.
    """
    ordered = np.sort(scores)[::-1]
    reached = np.arange(1, len(ordered) + 1) / max(labels, 1)
    following = np.append(reached[1:], reached[-1:])
    thresholds, recall, at = [], 0.0, 0
    while at < len(ordered):
        nearer_later = following[at:] - recall < recall - reached[at:]
        nearer_later[-1] = False
        at += int(nearer_later.argmin())
        thresholds.append(ordered[at])
        # Added up, as the protocol does: multiples of 1/40 round otherwise and move ties.
        recall += 1 / (RECALLS - 1)
        at += 1
    return np.array(thresholds, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Labels that overlap some detection, each with its candidates, padded.

    Attributes:
        labels: Index of the label.
        turns: Its place among these labels of its frame.
        detections: Its candidates, in the detections' order; -1 on padding.
        overlap: With each candidate.
    """

    labels: Int64[np.ndarray, " m"]
    turns: Int64[np.ndarray, " m"]
    detections: Int64[np.ndarray, "m c"]
    overlap: Float64[np.ndarray, "m c"]

    @classmethod
    def of(cls, contest: Contest, pairs: Pairs) -> "_Rounds":
        present = contest.label_roles[pairs.labels] != ABSENT
        present &= contest.detection_roles[pairs.detections] != ABSENT
        labels, rows, counts = np.unique(
            pairs.labels[present], return_inverse=True, return_counts=True
        )
        columns = _places(rows, counts)
        shape = len(labels), int(counts.max(initial=0))
        detections, overlap = np.full(shape, _UNMATCHED, dtype=np.int64), np.zeros(shape)
        detections[rows, columns] = pairs.detections[present]
        overlap[rows, columns] = pairs.overlap[present]
        _, frames, per_frame = np.unique(
            contest.label_frames[labels], return_inverse=True, return_counts=True
        )
        return cls(labels, _places(frames, per_frame), detections, overlap)

    def play(
        self,
        scores: Float64[np.ndarray, " d"],
        preference: Float64[np.ndarray, "m c"],
        thresholds: Float64[np.ndarray, " t"],
    ) -> Int64[np.ndarray, "m t"]:
        """Each label in turn takes the free candidate it prefers, of equals the first; -1: none."""
        # The last row answers for the padding's -1: never free.
        free = np.append(scores, -np.inf)[:, None] >= thresholds
        free[-1] = False
        chosen = np.full((len(self.labels), len(thresholds)), _UNMATCHED)
        for turn in range(self.turns.max(initial=-1) + 1):
            rows = np.flatnonzero(self.turns == turn)
            candidates = self.detections[rows]
            wish = np.where(free[candidates], preference[rows, :, None], -np.inf)
            best = wish.argmax(axis=1)
            taken = np.take_along_axis(candidates, best, axis=1)
            taken[wish.max(axis=1) == -np.inf] = _UNMATCHED
            chosen[rows] = taken
            free[taken, np.arange(len(thresholds))] = False
        return chosen

    def hits(self, contest: Contest, chosen: Int64[np.ndarray, "m t"]) -> Int64[np.ndarray, "m t"]:
        """The matches of a label that counts with a detection that counts; -1 elsewhere."""
        counts = (contest.label_roles[self.labels] == COUNTED)[:, None] & (
            contest.detection_roles[chosen] == COUNTED
        )
        return np.where(counts, chosen, _UNMATCHED)


def _places(
    groups: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " n"]:
    """Place of each item within its group, where groups stand one after the other."""
    places: np.ndarray = np.arange(len(groups)) - np.repeat(counts.cumsum() - counts, counts)
    return places
