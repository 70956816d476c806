"""What follows the image encoder in the fused graph, as ONNX text: scores, NMS, top-k.

Shapes: B images, P patches, Q queries, E embedding width, A areas (B or 1), S survivors of NMS,
T the table's columns that top-k leaves, K knots, N detections.
"""

import numpy as np
import onnx
from numpy.typing import NDArray

from owlkit.calibration import Calibration

# Names that start with "encoder/" are outputs of the image encoder. Logits are ranked, not scores:
# both have the same order, and scores of 1 no longer tell which is better.
_LOGITS = """
  norms = ReduceL2 <keepdims = 1> ("encoder/class_embeds", last)
  lengths = Add (norms, norm_epsilon)
  units = Div ("encoder/class_embeds", lengths)
  factors = Mul ("encoder/logit_scale", calibration_scale)
  patch_factors = Unsqueeze (factors, last)
  patch_vectors = Mul (units, patch_factors)
  patch_columns = Transpose <perm = [0, 2, 1]> (patch_vectors)
  cosines = MatMul (query_embeds, patch_columns)
  shifts = Mul ("encoder/logit_shift", factors)
  biases = Add (shifts, calibration_bias)
  patch_biases = Unsqueeze (biases, one)
  logits = Add (cosines, patch_biases)
"""

_BOXES = """
  centres, sizes = Split <axis = -1, num_outputs = 2> ("encoder/boxes")
  halves = Mul (sizes, half)
  lows = Sub (centres, halves)
  highs = Add (centres, halves)
  areas = Unsqueeze (image_area, one)
  area_lows, area_highs = Split <axis = -1, num_outputs = 2> (areas)
  raised_lows = Max (lows, area_lows)
  clipped_lows = Min (raised_lows, area_highs)
  raised_highs = Max (highs, area_lows)
  clipped_highs = Min (raised_highs, area_highs)
  corners = Concat <axis = -1> (clipped_lows, clipped_highs)
  sides = Sub (clipped_highs, clipped_lows)
  shorter_sides = ReduceMin <keepdims = 0> (sides, last)
  is_visible = Greater (shorter_sides, zero)
  patch_is_visible = Unsqueeze (is_visible, one)
  ranks = Where (patch_is_visible, logits, minus_infinity)
"""

# A little below what passes; the scores themselves are compared in the end.
_LINEAR_CUT = """
  limit = Clip (score_threshold, zero, largest_limit)
  log_limit = Log (limit)
  rest = Sub (unit, limit)
  log_rest = Log (rest)
  exact_cut = Sub (log_limit, log_rest)
  size_of_cut = Abs (exact_cut)
  relative_slack = Mul (size_of_cut, slack)
  raised_cut = Sub (exact_cut, relative_slack)
  cut = Sub (raised_cut, slack)
"""

# Not `Sigmoid`: ONNX Runtime's is off by up to 1e-7, which is all there is of very small scores.
_LINEAR_SCORES = """
  opposites = Neg (best_ranks)
  powers = Exp (opposites)
  sums = Add (powers, unit)
  best_scores = Reciprocal (sums)
"""

_ISOTONIC_CUT = """
  is_low = LessOrEqual (knot_scores, score_threshold)
  low_knots = Where (is_low, knot_logits, minus_infinity)
  knot_cut = ReduceMax <keepdims = 0> (low_knots)
  takes_all = LessOrEqual (score_threshold, zero)
  cut = Where (takes_all, minus_infinity, knot_cut)
"""

_ISOTONIC_SCORES = """
  within_knots = Clip (best_ranks, first_knot, last_knot)
  columns = Unsqueeze (within_knots, last)
  is_passed = LessOrEqual (knot_logits, columns)
  passed = Cast <to = 7> (is_passed)
  passed_count = ReduceSum <keepdims = 0> (passed, last)
  after = Min (passed_count, last_knot_index)
  step_back = Sub (after, one_scalar)
  before = Max (step_back, zero_index)
  x0 = Gather (knot_logits, before)
  x1 = Gather (knot_logits, after)
  y0 = Gather (knot_scores, before)
  y1 = Gather (knot_scores, after)
  gaps = Sub (x1, x0)
  has_gap = Greater (gaps, zero)
  widths = Where (has_gap, gaps, unit)
  steps = Sub (within_knots, x0)
  fractions = Div (steps, widths)
  rises = Sub (y1, y0)
  risen = Mul (rises, fractions)
  reached = Add (y0, risen)
  best_scores = Min (reached, y1)
"""

# Survivors go back into a table [B, P, Q]: top-k then meets equal logits in the order of patches.
# Behind them comes one column of nothing, because reductions of empty arrays go wrong.
_SUPPRESSION = """
  survivors = NonMaxSuppression (corners, ranks, top_k, iou_threshold, cut)
  survivor_ranks = GatherND (ranks, survivors)
  places = Gather <axis = 1> (survivors, patch_before_query)
  rank_sizes = Shape (ranks)
  table_sizes = Gather (rank_sizes, patch_before_query)
  empty_table = Expand (minus_infinity, table_sizes)
  table = ScatterND (empty_table, places, survivor_ranks)
  rows = Flatten <axis = 1> (table)
  row_sizes = Shape <start = 1> (rows)
  wanted = Min (row_sizes, top_k)
  top_ranks, best_places = TopK <axis = 1> (rows, wanted)
  best_ranks = Pad (top_ranks, one_column, minus_infinity)
"""

_ANSWER = """
  survives = Greater (best_ranks, minus_infinity)
  exceeds = Greater (best_scores, score_threshold)
  any_will_do = LessOrEqual (score_threshold, zero)
  suffices = Or (exceeds, any_will_do)
  is_found = And (survives, suffices)
  found_columns = NonZero (is_found)
  found = Transpose <perm = [1, 0]> (found_columns)
  batch_index = Gather <axis = 1> (found, zero_index)
  scores = GatherND (best_scores, found)
  found_places = GatherND (best_places, found)
  rank_rows = Shape <start = 1, end = 2> (ranks)
  query_count = Max (rank_rows, one)
  patches = Div (found_places, query_count)
  labels = Mod (found_places, query_count)
  image_column = Unsqueeze (batch_index, one)
  patch_column = Unsqueeze (patches, one)
  box_places = Concat <axis = 1> (image_column, patch_column)
  boxes = GatherND (corners, box_places)
"""


def detection_nodes(calibration: Calibration) -> list[onnx.NodeProto]:
    """The nodes, from `encoder/class_embeds` to `boxes`, for one kind of calibration."""
    isotonic = bool(calibration.knots)
    text = "".join(
        (
            *(_LOGITS, _BOXES, _ISOTONIC_CUT if isotonic else _LINEAR_CUT, _SUPPRESSION),
            *(_ISOTONIC_SCORES if isotonic else _LINEAR_SCORES, _ANSWER),
        )
    )
    graph = onnx.parser.parse_graph(f"detection () => () {{{text}}}")
    return list(graph.node)


def detection_constants(calibration: Calibration) -> dict[str, NDArray[np.generic]]:
    """What the nodes take for constants, by name."""
    real, whole = np.float32, np.int64
    constants: dict[str, NDArray[np.generic]] = {
        "norm_epsilon": np.array(1e-6, real),
        "half": np.array(0.5, real),
        "zero": np.array(0, real),
        "unit": np.array(1, real),
        "minus_infinity": np.array(-np.inf, real),
        "last": np.array([-1], whole),
        "one": np.array([1], whole),
        "one_column": np.array([0, 0, 0, 1], whole),
        "zero_index": np.array(0, whole),
        "patch_before_query": np.array([0, 2, 1], whole),
        "calibration_scale": np.array(calibration.scale, real),
        "calibration_bias": np.array(calibration.bias, real),
    }
    if not calibration.knots:
        largest = np.nextafter(real(1), real(0))
        return constants | {"slack": np.array(2.0**-18, real), "largest_limit": np.array(largest)}
    logits, scores = np.array(calibration.knots, dtype=real).T
    return constants | {
        "knot_logits": np.ascontiguousarray(logits),
        "knot_scores": np.ascontiguousarray(scores),
        "first_knot": logits[0].copy(),
        "last_knot": logits[-1].copy(),
        "last_knot_index": np.array(len(logits) - 1, whole),
        "one_scalar": np.array(1, whole),
    }
