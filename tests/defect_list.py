"""Defects that a maintainer could make in one line, and the tests of each.

`tests.defects` tries them. `old` is in its file exactly once.
"""

from typing import NamedTuple


class Defect(NamedTuple):
  """A change of one line for the worse.

  Attributes:
    name: what goes wrong, in a few words.
    area: part of the library, for the table of results.
    file: below `lorap_jax/`.
    old: text of the file.
    new: what is there instead.
    tests: below `tests/`, that are expected to fail; the cheapest first.
  """

  name: str
  area: str
  file: str
  old: str
  new: str
  tests: tuple[str, ...]


_QUANTIZERS = (
  Defect(
    'affine_one_code_more',
    'quantizers',
    'quantization/affine.py',
    'return qmin, qmin + 2**bits - 1',
    'return qmin, qmin + 2**bits',
    ('quantization/affine_test.py::TestCodeRange::test_written_out',),
  ),
  Defect(
    'affine_ties_go_up',
    'quantizers',
    'quantization/affine.py',
    'return jnp.round(ratio + qparams.zero_point)',
    'return jnp.floor(ratio + qparams.zero_point + 0.5)',
    ('quantization/affine_test.py::TestForward::test_written_out',),
  ),
  Defect(
    'affine_last_code_has_no_gradient',
    'quantizers',
    'quantization/affine.py',
    'passing = (codes >= qmin) & (codes <= qmax)',
    'passing = (codes >= qmin) & (codes < qmax)',
    ('quantization/affine_test.py::TestGradient::test_closed_form',),
  ),
  Defect(
    'affine_range_sees_protected_rows',
    'quantizers',
    'nn/methods/qat.py',
    'self._batch_range(x, _observed(mask, keep, rows), rows),',
    'self._batch_range(x, _observed(mask, None, rows), rows),',
    (
      'nn/affine_quantizer_test.py::TestProtection::'
      'test_protected_rows_pass_and_stay_out_of_the_range',
    ),
  ),
  Defect(
    'range_momentum_is_swapped',
    'quantizers',
    'quantization/observers.py',
    'running.max_val + momentum * (high - running.max_val),',
    'high + momentum * (running.max_val - high),',
    ('quantization/observers_test.py::TestUpdateRange::test_momentum',),
  ),
  Defect(
    'high_degrees_are_the_least_protected',
    'quantizers',
    'quantization/degree_quant.py',
    'jnp.clip((1 - share) * low + share * high, low, high)',
    'jnp.clip(share * low + (1 - share) * high, low, high)',
    ('quantization/degree_quant_test.py::TestProbability::test_written_out',),
  ),
  Defect(
    'division_is_a_product',
    'quantizers',
    'quantization/numerics.py',
    'return x / jnp.where(jnp.isnan(x), 1, divisor)',
    'return x / divisor',
    ('quantization/numerics_test.py::TestDivide::test_pixels',),
  ),
  Defect(
    'a2q_bits_gradient_takes_the_sign_of_the_scale',
    'quantizers',
    'quantization/a2q.py',
    'jnp.where(bits < 0, -db, db)',
    'jnp.where(scale < 0, -db, db)',
    ('quantization/a2q_test.py::TestGradient::test_signs_are_chained',),
  ),
  Defect(
    'nearest_group_of_a_tie_is_the_lower_one',
    'quantizers',
    'quantization/a2q_groups.py',
    'tie = jnp.minimum(left, right)',
    'tie = left',
    (
      'quantization/a2q_groups_test.py::TestNearestGroup::'
      'test_equals_argmin_on_a_lattice',
    ),
  ),
  Defect(
    'mixq_zero_point_gradient_has_the_wrong_sign',
    'quantizers',
    'quantization/mixq.py',
    'd_zero_point = -scale * (d_zero_point - reduce(dx))',
    'd_zero_point = scale * (d_zero_point - reduce(dx))',
    ('quantization/mixq_test.py::TestGradient::test_closed_form',),
  ),
)

_PADDING = (
  Defect(
    'a2q_means_count_padding',
    'masks and padding',
    'quantization/a2q.py',
    'rows = jnp.maximum(jnp.sum(weights), 1) if 0 in axes else 1',
    'rows = x.shape[0] if 0 in axes else 1',
    (
      'quantization/a2q_test.py::TestGradient::'
      'test_mask_keeps_padding_out_of_column_means',
    ),
  ),
  Defect(
    'padding_edges_come_from_the_first_node',
    'masks and padding',
    'graphs/batching.py',
    'senders=_pad(senders, free[1], first_padding),',
    'senders=_pad(senders, free[1]),',
    (
      'graphs/batching_test.py::TestBatchGraphs::'
      'test_equals_jraph_up_to_edge_order',
    ),
  ),
)

_SUMS = (
  Defect(
    'mean_pool_divides_by_edges',
    'aggregation',
    'graphs/segment.py',
    'size = jnp.maximum(graph.n_node, 1)[:, None].astype(x.dtype)',
    'size = jnp.maximum(graph.n_edge, 1)[:, None].astype(x.dtype)',
    ('graphs/segment_test.py::TestMeanPool::test_equals_means',),
  ),
  Defect(
    'csr_reads_one_row_beyond',
    'aggregation',
    'graphs/aggregate.py',
    'jnp.clip(indices, 0, num_columns - 1),',
    'jnp.clip(indices, 0, num_columns),',
    ('graphs/checks_test.py::test_columns_outside_are_read_from_the_edge',),
  ),
  Defect(
    'empty_slots_read_the_last_node',
    'aggregation',
    'graphs/aggregate.py',
    "x.at[table.indices[:, d]].get(mode='fill', fill_value=0)",
    "x.at[table.indices[:, d]].get(mode='clip')",
    ('graphs/aggregate_test.py::TestGatherSum::test_table_as_incoming',),
  ),
  Defect(
    'weighted_gradient_gathers_at_the_senders',
    'aggregation',
    'graphs/aggregate.py',
    'messages = weights[:, :, None] * ds[receivers]',
    'messages = weights[:, :, None] * ds[senders]',
    ('graphs/aggregate_test.py::TestAggregateWeighted::test_gradients',),
  ),
  Defect(
    'self_loops_of_the_graph_count_twice',
    'aggregation',
    'graphs/normalize.py',
    'weight = jnp.where(count == 0, self_loop_weight, 1.0 - count)',
    'weight = jnp.where(count == 0, self_loop_weight, 1.0)',
    ('graphs/normalize_test.py::TestAgainstDense::test_degree_and_scale',),
  ),
  Defect(
    'gcn_loops_are_scaled_once',
    'aggregation',
    'graphs/normalize.py',
    'return here(scale) * (total + here(loop * (scale * x)))',
    'return here(scale) * (total + here(loop * x))',
    ('nn/gcn_test.py::TestFullPrecision::test_dense_matrices',),
  ),
)

_ATTENTION = (
  Defect(
    'softmax_sums_over_padding',
    'attention',
    'graphs/attention.py',
    'powers = jnp.where(real, jnp.exp(shifted), 0.0)',
    'powers = jnp.exp(shifted)',
    (
      'graphs/attention_test.py::TestSegmentSoftmax::'
      'test_equals_softmax_of_each_node',
    ),
  ),
  Defect(
    'nodes_attend_to_themselves_twice',
    'attention',
    'nn/conv/gat.py',
    'mask = jnp.concatenate([edge_mask, loop_mask & absent])',
    'mask = jnp.concatenate([edge_mask, loop_mask])',
    ('nn/gat_test.py::TestFullPrecision::test_loop_over_nodes',),
  ),
)

_PROMPTS = (
  Defect(
    'lorap_softmax_over_nodes',
    'prompts',
    'prompts/lorap.py',
    'matmul(s, params.kernel) + params.bias[None, :], axis=-1',
    'matmul(s, params.kernel) + params.bias[None, :], axis=0',
    ('prompts/lorap_test.py::TestPrompt::test_closed_form',),
  ),
  Defect(
    'prompt_behind_the_quantizer_sees_what_is_before_it',
    'prompts',
    'nn/prompts/placement.py',
    "seen = y.values if spec.placement == 'post' else s",
    "seen = y.values if spec.placement == 'bypass' else s",
    ('nn/prompts_test.py::TestPlacement::test_written_out',),
  ),
)

_LOSS = (
  Defect(
    'loss_counts_padding',
    'loss',
    'training/tasks.py',
    'count = jnp.sum(mask, dtype=jnp.float32)',
    'count = jnp.float32(mask.size)',
    ('training/tasks_test.py::test_classification_by_hand',),
  ),
  Defect(
    'local_objective_is_not_trained',
    'loss',
    'training/steps.py',
    'loss += seen.local_loss',
    'pass',
    (
      'training/steps_test.py::'
      'test_local_objective_enters_the_loss_and_trains_its_prompt',
    ),
  ),
  Defect(
    'every_step_draws_the_same',
    'loss',
    'training/steps.py',
    'return jax.random.fold_in(state.key, state.step)',
    'return state.key',
    ('training/steps_test.py::test_every_step_and_stream_has_its_own_key',),
  ),
)

_NORM = (
  Defect(
    'batch_norm_sees_padding',
    'batch norm',
    'nn/norm.py',
    'return bn(x, mask=rows.mask)',
    'return bn(x)',
    ('nn/norm_test.py::test_normalizes_the_real_rows',),
  ),
  Defect(
    'batch_norm_momentum_is_that_of_torch',
    'batch norm',
    'nn/norm.py',
    '_MOMENTUM = 0.9',
    '_MOMENTUM = 0.1',
    ('nn/norm_test.py::test_statistics_are_those_of_the_real_rows',),
  ),
  Defect(
    'unbiased_variance_counts_padding',
    'batch norm',
    'nn/norm.py',
    'count = jnp.sum(real_rows(x, rows), dtype=jnp.float32)',
    'count = jnp.float32(x.shape[0])',
    ('nn/norm_test.py::test_unbiased_running_variance',),
  ),
  Defect(
    'statistics_settle_on_the_other_batches',
    'batch norm',
    'runs/batched.py',
    'with contextlib.closing(loader.stream(plan[:count])) as batches:',
    'with contextlib.closing(loader.stream(plan[count:])) as batches:',
    (
      'runs/batched_test.py::TestStoppedInsideAnEpoch::'
      'test_statistics_settle_on_the_first_batches',
    ),
  ),
)

_OPTIMIZER = (
  Defect(
    'every_group_decays',
    'optimizer and schedules',
    'training/optimizer.py',
    'return grad + rates.decay[group] * leaf if group in rates.decay else grad',
    "return grad + rates.decay.get(group, rates.decay['base']) * leaf",
    ('training/optimizer_test.py::test_two_steps_of_adam',),
  ),
  Defect(
    'prompt_factor_is_the_rate',
    'optimizer and schedules',
    'training/optimizer.py',
    "'prompt': self.learning_rate * self.prompt_factor,",
    "'prompt': self.prompt_factor,",
    ('training/optimizer_test.py::test_two_steps_of_adam',),
  ),
  Defect(
    'rates_are_those_of_the_next_batch',
    'optimizer and schedules',
    'runs/batched.py',
    'rates = self.rates(progress.epoch + number / len(plan))',
    'rates = self.rates(progress.epoch + (number + 1) / len(plan))',
    (
      'runs/batched_test.py::TestStoppedInsideAnEpoch::'
      'test_goes_on_with_the_batch_after_the_last',
    ),
  ),
)

_BITS = (
  Defect(
    'bit_operations_count_padding',
    'bits and costs',
    'nn/telemetry.py',
    'bit_ops=macs * weight_bits * jnp.sum(bits * mask),',
    'bit_ops=macs * weight_bits * jnp.sum(bits),',
    (
      'training/accounting_test.py::TestFullPrecision::'
      'test_padding_does_not_count',
    ),
  ),
  Defect(
    'average_bits_ignore_the_width',
    'bits and costs',
    'training/accounting.py',
    'total += r.width * jnp.sum(r.bits * r.mask)',
    'total += jnp.sum(r.bits * r.mask)',
    ('training/accounting_test.py::test_mean_bits_of_a_training_step',),
  ),
)

_RESUME = (
  Defect(
    'stopped_epoch_goes_on_one_batch_late',
    'resume',
    'runs/batched.py',
    'loader.stream(plan[first:])',
    'loader.stream(plan[first + 1 :])',
    (
      'runs/batched_test.py::TestStoppedInsideAnEpoch::'
      'test_goes_on_with_the_batch_after_the_last',
    ),
  ),
  Defect(
    'every_epoch_has_the_order_of_the_first',
    'resume',
    'data/pipeline.py',
    'rng = np.random.default_rng((seed, epoch))',
    'rng = np.random.default_rng((seed, 0))',
    (
      'data/pipeline_test.py::TestOrder::test_every_seed_and_epoch_has_its_own',
    ),
  ),
  Defect(
    'every_epoch_is_saved_as_the_best',
    'resume',
    'runs/batched.py',
    'if at_epoch_end and self.selection.best(records) is records[-1]:',
    'if at_epoch_end:',
    ('runs/batched_test.py::test_state_of_the_selected_epoch_is_kept',),
  ),
  Defect(
    'digest_leaves_folders_out',
    'resume',
    'runs/checkpointing.py',
    "for path in sorted(p for p in folder.rglob('*') if p.is_file()):",
    "for path in sorted(p for p in folder.glob('*') if p.is_file()):",
    ('runs/checkpointing_test.py::test_damage_is_harmless_or_named',),
  ),
  Defect(
    'metrics_are_appended_to',
    'resume',
    'runs/writers.py',
    "part.write_text(''.join(f'{json.dumps(r)}\\n' for r in records))",
    "part.write_text(path.read_text() if path.exists() else '')",
    (
      'runs/writers_test.py::TestJsonLines::'
      'test_holds_the_records_whatever_was_left',
    ),
  ),
)

_SELECTION = (
  Defect(
    'of_equal_epochs_the_last_is_taken',
    'selection',
    'training/history.py',
    'if beats(score(record), score(best)):',
    'if not beats(score(best), score(record)):',
    ('training/history_test.py::test_selection_rule',),
  ),
  Defect(
    'highest_validation_loss_is_taken',
    'selection',
    'training/history.py',
    "loss = -record['valid_loss']",
    "loss = record['valid_loss']",
    ('training/history_test.py::test_selection_rule',),
  ),
  Defect(
    'higher_errors_are_better',
    'selection',
    'training/tasks.py',
    "return 1 if self.kind == 'classification' else -1",
    'return 1',
    ('training/tasks_test.py::test_metrics_have_their_name_and_direction',),
  ),
  Defect(
    'report_has_the_test_of_the_last_epoch',
    'selection',
    'runs/result.py',
    "'test': selected[f'test_{metric}'],",
    "'test': records[-1][f'test_{metric}'],",
    (
      'runs/node_report_test.py::test_all_of_a_result_is_of_the_selected_epoch',
    ),
  ),
)

_DATA = (
  Defect(
    'classes_are_shuffled_alike',
    'data',
    'data/containers/splits.py',
    'order = permutation(int(count), [seed, int(c)])',
    'order = permutation(int(count), [seed])',
    (
      'data/containers/splits_test.py::test_stratified_draws_each_class_for_itself',
    ),
  ),
  Defect(
    'features_are_normalized_by_the_test_graphs',
    'data',
    'data/containers/normalization.py',
    'nodes = data.train.nodes',
    'nodes = data.test.nodes',
    (
      'data/containers/normalization_test.py::test_standard_uses_the_training_nodes_alone',
    ),
  ),
  Defect(
    'similarity_is_that_of_the_sender',
    'data',
    'data/images/slic_graphs.py',
    'similarity = (kernel + kernel.T) / 2',
    'similarity = kernel',
    (
      'data/images/slic_graphs_test.py::'
      'test_neighbors_of_random_points_are_exactly_the_oracle',
    ),
  ),
  Defect(
    'edge_index_is_reversed',
    'data',
    'data/sets/own_arrays.py',
    'return ends[0], ends[1]',
    'return ends[1], ends[0]',
    ('data/sets/custom_test.py::test_edge_index_is_senders_and_receivers',),
  ),
  Defect(
    'gzip_bombs_stop_at_the_limit_as_if_whole',
    'data',
    'data/files/store.py',
    'file.read(min(_CHUNK, max_size + 1 - len(plain)))',
    'file.read(min(_CHUNK, max_size - len(plain)))',
    ('data/files/store_test.py::test_gunzip_stops_in_any_member',),
  ),
)

_RUNS = (
  Defect(
    'members_are_taken_by_name',
    'together, prediction',
    'runs/side_by_side.py',
    'return [self.runs.get(place, lead) for place in self.places]',
    'return [self.runs.get(place, lead) for place in sorted(self.places)]',
    (
      'runs/side_by_side_test.py::TestGroups::test_members_are_at_their_places',
    ),
  ),
  Defect(
    'answers_are_shuffled',
    'together, prediction',
    'runs/restore.py',
    'plan = loader.ordered()',
    'plan = loader.shuffled(0, 0)',
    ('runs/predict_test.py::test_unpadded_equals_padded[gcn-fp32-graph]',),
  ),
)

_STEP = 'graphs/shards_test.py::test_step_is_that_of_one_shard'
_SHARDS = (
  Defect(
    'shards_share_their_indices',
    'shards',
    'graphs/batching.py',
    'shift = np.int32(i * len(graph.nodes))',
    'shift = np.int32(0)',
    ('graphs/shards_test.py::test_joined_batch_is_a_batch',),
  ),
  Defect(
    'protected_nodes_by_place',
    'shards',
    'nn/protection.py',
    'drawn = drawn[jnp.argsort(order)]',
    'drawn = drawn[order]',
    (f'{_STEP}[gcn-dq4-lorap-graph]',),
  ),
  Defect(
    'dropout_by_place',
    'shards',
    'models/network.py',
    'if rows.order is None or not rows.train:',
    'if True:',
    (f'{_STEP}[gin-a2q-gpf_lorap-graph]',),
  ),
  Defect(
    'ranges_sample_by_place',
    'shards',
    'nn/methods/qat.py',
    'if rows.order is not None and stride > 1:',
    'if False:',
    (f'{_STEP}[gcn-dq4-lorap-graph]', f'{_STEP}[gat-qat4-gpf_plus-graph]'),
  ),
  Defect(
    'graphs_of_a_batch_go_by_devices',
    'shards',
    'data/pipeline.py',
    'pieces = np.array_split(indices, self.num_shards)',
    'pieces = [indices[i :: self.num_shards] for i in range(self.num_shards)]',
    (
      'graphs/shards_test.py::TestLoader::'
      'test_graphs_do_not_depend_on_the_devices',
    ),
  ),
  Defect(
    'shards_of_processes_share_their_indices',
    'processes',
    'graphs/batching.py',
    'for i, batch in zip(places or range(len(batches)), batches, strict=True):',
    'for i, batch in enumerate(batches):',
    ('runs/agreement_test.py::test_shards_of_processes_make_the_batch',),
  ),
  Defect(
    'who_compiles_stands_still',
    'processes',
    'runs/star.py',
    'limit = clocks.batch if peer.at[2] else clocks.elsewhere',
    'limit = clocks.batch',
    (
      'runs/star_test.py::'
      'test_who_compiles_or_is_not_waited_for_may_stand[True-False]',
    ),
  ),
)

_RECIPE = (
  Defect(
    'smoothed_labels_leave_the_other_classes_out',
    'training recipe',
    'training/tasks.py',
    'own - jnp.mean(outputs, axis=1), 0))',
    'own, 0))',
    ('training/tasks_test.py::TestSmoothing::test_by_hand',),
  ),
  Defect(
    'maps_go_by_the_place_of_padding_too',
    'training recipe',
    'training/augment.py',
    'places = jnp.maximum(jnp.cumsum(real) - 1, 0)',
    'places = jnp.arange(len(real))',
    (
      'training/augment_test.py::'
      'test_draws_do_not_depend_on_padding_and_shards',
    ),
  ),
  Defect(
    'distance_from_the_teacher_shrinks_with_the_temperature',
    'training recipe',
    'training/tasks.py',
    'distance = temperature**2 * kl',
    'distance = kl',
    ('training/tasks_test.py::TestDistillation::test_of_classes',),
  ),
  Defect(
    'average_evaluates_with_the_statistics_of_the_last_step',
    'training recipe',
    'training/steps.py',
    'state.evaluated().variables(),',
    'state.variables(),',
    ('runs/recipe_test.py::test_statistics_settle_on_the_averaged_network',),
  ),
)

_LARGE_GRAPHS = (
  Defect(
    'drawn_edges_stand_for_themselves_alone',
    'large graphs',
    'graphs/neighborhood.py',
    'degree[:m] / np.maximum(counts, 1), 1)',
    '1.0, 1)',
    ('models/sampled_network_test.py::test_drawn_sums_are_unbiased',),
  ),
  Defect(
    'an_edge_is_drawn_twice',
    'large graphs',
    'data/sampling.py',
    'chosen[j] = np.where(taken, last, pick)',
    'chosen[j] = pick',
    ('data/sampling_test.py::test_draws_are_distinct_edges_of_their_nodes',),
  ),
  Defect(
    'padding_teaches_a_node',
    'large graphs',
    'nn/methods/a2q/quantizers.py',
    'ids = jnp.where(mask[:, 0], numbers.ids, count)',
    'ids = numbers.ids',
    (
      'models/sampled_network_test.py'
      '::test_nodes_take_and_train_their_own_parameters',
    ),
  ),
  Defect(
    'codes_arrive_without_their_lowest_one',
    'large graphs',
    'graphs/partition.py',
    'return self.step * (self.low + codes.astype(jnp.float32))',
    'return self.step * codes.astype(jnp.float32)',
    ('graphs/partition_test.py::test_values_are_those_of_their_codes',),
  ),
  Defect(
    'edges_of_parts_are_numbered_without_padding',
    'large graphs',
    'graphs/batching.py',
    'place = part * num_edges + np.arange(len(senders)) - ends[part]',
    'place = np.arange(len(senders))',
    ('graphs/partition_test.py::test_weighted_sums_and_their_gradients',),
  ),
)

_RELATIONS = (
  Defect(
    'means_count_the_edges_of_all_relations',
    'relations',
    'graphs/relations.py',
    'weights = 1 / count[graph.receivers, relations.ids]',
    'weights = 1 / count.sum(1)[graph.receivers]',
    ('nn/rgcn_test.py::test_is_a_dense_matrix_for_each_relation[False-none]',),
  ),
)

_PREPARED = (
  Defect(
    'a_shard_of_another_job_is_taken',
    'data in shards',
    'data/files/prepared.py',
    "_check_same(name, meta, {**record, 'shard': index, 'shards': count})",
    '_check_same(name, meta, meta)',
    (
      'data/files/prepared_test.py'
      '::test_a_shard_of_another_job_is_refused_and_kept',
    ),
  ),
  Defect(
    'a_block_of_text_loses_its_first_line',
    'data in shards',
    'data/files/edge_text.py',
    'file.seek(start - 1)',
    'file.seek(start)',
    ('data/files/edge_text_test.py::test_each_edge_is_in_one_block',),
  ),
)

_SNAPPED = (
  Defect(
    'groups_of_equal_ranges_take_the_most_bits',
    'snapped tables',
    'quantization/a2q_groups.py',
    'used[order][(first + last) // 2]',
    'used[order][last - 1]',
    (
      'quantization/a2q_groups_test.py'
      '::test_snapped_groups_of_equal_ranges_are_equal',
    ),
  ),
  Defect(
    'snapped_tables_are_trained_on',
    'snapped tables',
    'runs/batched.py',
    'dict.fromkeys(snapping.FROZEN, np.float32(0))',
    'dict.fromkeys(snapping.FROZEN, np.float32(1e-3))',
    ('runs/integer_epochs_test.py::test_tables_are_those_of_the_file',),
  ),
  Defect(
    'all_strips_are_the_first',
    'C',
    'integers/c_writer.py',
    "return f'lorap_from({word}, first)'",
    "return f'lorap_from({word}, 0)'",
    ('integers/c_test.py::test_codes_are_those_of_the_reference',),
  ),
)

DEFECTS = (
  *_QUANTIZERS,
  *_PADDING,
  *_SUMS,
  *_ATTENTION,
  *_PROMPTS,
  *_LOSS,
  *_NORM,
  *_OPTIMIZER,
  *_BITS,
  *_RESUME,
  *_SELECTION,
  *_DATA,
  *_RUNS,
  *_SHARDS,
  *_RECIPE,
  *_LARGE_GRAPHS,
  *_RELATIONS,
  *_PREPARED,
  *_SNAPPED,
)
