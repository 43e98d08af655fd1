"""The work pools: what needs a GPU waits for one, and holds nothing else up."""

CPU_POOL, GPU_POOL = "fewcast-cpu", "fewcast-gpu"
