"""Which onnxruntime options may reach a guarded session: an allow-list, rebuilt from nothing (docs/LOADER.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelvault.errors import ForbiddenOption

Providers = Sequence[str | tuple[str, Mapping[Any, Any]]]
CPU = "CPUExecutionProvider"

ATTRIBUTES = (
    "enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "execution_mode", "execution_order",
    "graph_optimization_level", "inter_op_num_threads", "intra_op_num_threads", "logid",
    "use_deterministic_compute", "use_per_session_threads",
)  # fmt: skip
# Doors: attributes that write the model or its names to disk or terminal when they differ from these.
DOORS = {"enable_profiling": False, "optimized_model_filepath": "", "log_verbosity_level": 0}
WARNING, ERROR = 2, 3  # warnings already name initializers, anything below names nodes

CONFIG = (
    "session.intra_op.allow_spinning", "session.inter_op.allow_spinning", "session.force_spinning_stop",
    "session.set_denormal_as_zero", "session.dynamic_block_base", "session.intra_op_thread_affinities",
    "session.use_device_allocator_for_initializers", "session.use_env_allocators", "session.disable_quant_qdq",
    "session.disable_double_qdq_remover", "session.enable_quant_qdq_cleanup", "session.qdqisint8allowed",
    "session.disable_aot_function_inlining", "session.strict_shape_type_inference", "session.enable_gelu_approximation",
    "session.enable_cast_chain_elimination", "session.graph_optimizations_loop_level",
    "mlas.enable_gemm_fastmath_arm64_bfloat16", "session.allow_released_opsets_only",
)  # fmt: skip
CONFIG_DOORS = (
    "session.optimized_model_external_initializers_file_name",
    "session.optimized_model_external_initializers_min_size_in_bytes",
    "session.save_external_prepacked_constant_initializers",
    "session.save_model_format",
    "session.model_external_initializers_file_folder_path",
    "session.collect_node_memory_stats_to_file",
    "session.node_partition_config_file",
    "session.debug_layout_transformation",
    "session.record_ep_graph_assignment_info",
    "session.load_model_format",
    "session.moe_expert_counter_state_file",
    "session.moe.offload.enable",
    "session.moe.offload.path",
    "ep.context_enable",
    "ep.context_file_path",
    "ep.context_embed_mode",
    "ep.context_node_name_prefix",
    "ep.share_ep_contexts",
    "ep.stop_share_ep_contexts",
    "ep.context_model_external_initializers_file_name",
    "optimization.minimal_build_optimizations",
    "session.use_ort_model_bytes_directly",
    "session.use_ort_model_bytes_for_initializers",
)

_CUDA = """
    device_id gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search do_copy_in_default_stream
    cudnn_conv_use_max_workspace cudnn_conv1d_pad_to_nc1d enable_cuda_graph prefer_nhwc use_tf32
    use_ep_level_unified_stream fuse_conv_bias sdpa_kernel
"""
# Left out on purpose: engine caches, dumps and compiled contexts, which write the model to disk.
PROVIDER_OPTIONS: dict[str, frozenset[str]] = {
    CPU: frozenset({"arena_extend_strategy"}),
    "CUDAExecutionProvider": frozenset(_CUDA.split()),
    "ROCMExecutionProvider": frozenset({"device_id", "gpu_mem_limit", "arena_extend_strategy"}),
    "DmlExecutionProvider": frozenset({"device_id", "performance_preference", "device_filter"}),
    "XnnpackExecutionProvider": frozenset({"intra_op_num_threads"}),
    "TensorrtExecutionProvider": frozenset(
        {"device_id", "trt_max_workspace_size", "trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"}
    ),
}


def rebuild(given: Any, fresh: Any) -> Any:
    """Copy into ``fresh`` (new SessionOptions) what is allowed of ``given``; ForbiddenOption names the door."""
    fresh.log_severity_level = ERROR
    if given is None:
        return fresh
    for name, closed in DOORS.items():
        if getattr(given, name) != closed:
            raise ForbiddenOption(f"SessionOptions.{name}: would write the decrypted model or its names")
    if given.has_providers():
        raise ForbiddenOption("SessionOptions.add_provider: pass providers to the session instead")
    if 0 <= given.log_severity_level < WARNING:
        raise ForbiddenOption("SessionOptions.log_severity_level: verbose logs print node names; expected 2 or more")
    for key in CONFIG_DOORS:
        if _entry(given, key) not in (None, "", "0"):
            raise ForbiddenOption(f"session config {key}: not allowed in a guarded session")
    for name in ATTRIBUTES:
        setattr(fresh, name, getattr(given, name))
    fresh.log_severity_level = max(ERROR, given.log_severity_level)
    for key in CONFIG:
        if (value := _entry(given, key)) is not None:
            fresh.add_session_config_entry(key, value)
    return fresh


def _entry(options: Any, key: str) -> str | None:
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:  # onnxruntime's way to say that there is none
        return None


def providers(
    given: Providers | None, settings: Sequence[Mapping[Any, Any]] | None, available: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Provider names with their options, in order; those this build of onnxruntime lacks are left out, as it does.

    Raises ForbiddenOption, and ValueError for what onnxruntime would not understand either.
    """
    if given is None:
        return {CPU: {}}
    if settings is not None and len(settings) != len(given):
        raise ValueError("'providers' and 'provider_options' should be the same length if both are given.")
    result: dict[str, dict[str, str]] = {}
    for number, item in enumerate(given):
        name, options = (item, {}) if isinstance(item, str) else item
        if settings is not None:
            options = settings[number]
        allowed = PROVIDER_OPTIONS.get(name)
        if allowed is None:
            raise ForbiddenOption(f"provider {str(name)[:80]}: not allowed in a guarded session")
        for key in options:
            if key not in allowed:
                raise ForbiddenOption(f"provider option {name}.{str(key)[:80]}: not allowed in a guarded session")
        if name in available:
            result.setdefault(name, {str(k): str(v) for k, v in options.items()})
    return result or {CPU: {}}
