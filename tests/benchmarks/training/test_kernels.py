"""The kernels of a step and their kinds."""

import pytest
import torch

from benchmarks.training.kernels import kind_of, profile_steps


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_128x128x128_1x1x1_kernel0_0", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", "matrix products"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<... FusedAdamMathFunctor ...>",
         "optimizer and clipping"),
        ("Memcpy DtoD (Device -> Device)", "memory copies"),
        ("triton_poi_fused__to_copy_mul_silu_3", "compiled elementwise"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda...>", "casts and copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "other elementwise"),
        ("something else", "other"),
    ],
)  # fmt: skip
def test_kinds(name, kind):
    assert kind_of(name) == kind


def test_a_profile_counts_the_calls_of_a_step():
    a = torch.randn(256, 256)

    def step():
        for _ in range(3):
            torch.mm(a, a)

    found = profile_steps(step, 2, "cpu")
    top = found["top"][0]
    assert (top["name"], top["kind"], top["calls"]) == ("aten::mm", "matrix products", 3)
    assert found["steps"] == 2 and found["ms_per_step"] >= top["ms"] > 0
    assert found["kinds"]["matrix products"] == pytest.approx(top["share"], abs=0.05)
