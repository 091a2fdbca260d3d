"""What was measured: by one process, of a whole row, and of single operators."""

from __future__ import annotations

from pydantic import Field

from stmdeploy.schema.document import Amount, Count, Document, Ms, MsEnd, Number
from stmdeploy.schema.hardware import Conditions, Environment


class ScenarioResult(Document):
    """What LoadGen says of a run: its own figures, its verdict, and where its logs are."""

    scenario: str = Field(description="Scenario: single-stream, multi-stream, server or offline.")
    valid: bool = Field(description="Verdict of LoadGen: true for VALID.")
    reasons: tuple[str, ...] = Field(description="Known causes of INVALID; empty for a valid run.")
    queries: int = Field(description="Queries of the run, as LoadGen counts them.")
    latency_ms_p50: Ms | None = Field(description="Median latency in ms; None if not logged.")
    latency_ms_p90: Ms | None = Field(description="90th percentile in ms; None if not logged.")
    latency_ms_p99: Ms | None = Field(description="99th percentile in ms; None if not logged.")
    throughput_images_s: Amount = Field(description="Images per second; 0 if not logged.")
    target_queries_s: float | None = Field(
        description="Queries per second that scenario server was run at; None for the others."
    )
    target_latency_ms: float | None = Field(
        description="Latency in ms that server's 99th percentile must stay below; None if unset."
    )
    logs: str = Field(description="Folder of LoadGen's logs.")
    loadgen_version: str = Field(description="Version of the package mlcommons-loadgen.")


class ProcessRun(Document):
    """What one worker process measured of a row. Latencies and memory are as in `Measurement`."""

    samples_ms: tuple[float, ...] = Field(description="Latencies in ms, in the order they ended.")
    copies_ms: tuple[float, ...] = Field(
        description="Latencies with the input copied to the runtime and the output back, in ms."
    )
    warmup_ms: tuple[float, ...] = Field(description="Latencies of the warm-up in ms, in order.")
    warmup_ended_by: str = Field(description="Why the warm-up ended: steady, or limit (of time).")
    stopped_by: str = Field(
        description="What ended sampling: turns (all taken), budget (in flight) or loadgen."
    )
    window_s: Amount = Field(
        description="Time from the first sample to the last in s, waiting for turns included."
    )
    turns: tuple[int, ...] = Field(
        (), description="Samples of each turn, in order; empty if the process took none."
    )
    waited_ms: tuple[float, ...] = Field(
        (),
        description="How long its threads waited for a processor in each sample, all together, in "
        "ms; empty if not known.",
    )
    others_s: Amount = Field(
        0.0, description="Processor seconds that other programs used during its turns."
    )
    turns_s: Amount = Field(
        0.0, description="Time of its turns in s, with the inferences in them that do not count."
    )
    wave: int | None = Field(
        None, description="Wave whose processes took turns with each other; None if it ran alone."
    )
    alive: int = Field(1, description="Processes of its wave, which were all alive at once.")
    burst_runs: int = Field(
        0, description="Inferences run back to back, or by all requests in flight; 0 for LoadGen."
    )
    burst_s: Amount = Field(0.0, description="Time that they took altogether, in seconds.")
    runtime_import_ms: Amount = Field(description="Time to import the runtime's library, in ms.")
    load_ms: Amount = Field(description="Time to load the artifact into a runner, in ms.")
    first_inference_ms: Amount = Field(description="Time to prepare and run one inference, in ms.")
    memory_before_load_mib: Amount = Field(description="Peak host memory before loading, in MiB.")
    memory_peak_mib: Amount = Field(description="Peak host memory of the process, in MiB.")
    device_memory_peak_mib: float | None = Field(
        description="Memory that the process held on the GPU after sampling, in MiB; or None."
    )
    energy_j: float | None = Field(
        description="Energy of the burst, in joules; None without a meter."
    )
    energy_source: str = Field(description="Meter: nvml (GPU) or rapl (packages); empty for none.")
    runtime_facts: dict[str, str] = Field(description="Version, provider and settings in force.")
    load_average_1min: float | None = Field(description="Load average at warm-up; None if unknown.")
    before: Conditions = Field(description="State of the machine just before the samples.")
    after: Conditions = Field(description="State of the machine just after the samples.")
    environment: Environment = Field(description="Machine and software that measured.")
    device_ms: tuple[float, ...] = Field(
        (), description="Latencies by the GPU's own clock, in ms; empty if it does not tell."
    )
    enqueue_ms: tuple[float, ...] = Field(
        (), description="Times to put those inferences on the GPU's stream, in ms."
    )
    throttled_turns: int = Field(
        0, description="Turns in which the GPU was held back; they are left out unless all were."
    )
    scenario: ScenarioResult | None = Field(
        None, description="Result of LoadGen; None for stmdeploy's own loop."
    )


class TurnsRun(Document):
    """What one side of a comparison reports after its turns, whose times it told one by one."""

    runtime_import_ms: float = Field(description="Time to import the runtime's library, in ms.")
    load_ms: float = Field(description="Time to load the artifact into a runner, in ms.")
    first_inference_ms: float = Field(description="Time to prepare and run one inference, in ms.")
    memory_peak_mib: float = Field(description="Peak host memory of the process, in MiB.")
    runtime_facts: dict[str, str] = Field(description="Version, provider and settings in force.")
    outputs: tuple[tuple[float, ...], ...] = Field(
        description="Values of each output for the image that both sides run first, evenly spaced."
    )
    burst_runs: Number = Field(description="Inferences run back to back after the last turn.")
    burst_s: Amount = Field(description="Time that they took altogether, in seconds.")
    others_processors: float = Field(
        description="Processors that other programs kept busy during its turns, on average."
    )
    environment: Environment = Field(description="Machine and software that measured.")


class Measurement(Document):
    """The figures of a row, from all its processes.

    Latency is of one inference of the whole batch, input and output already on the device. Memory
    is the worker's resident set: before loading, the runtime is imported and the input is made.
    Load times are medians over the processes, memory the maximum, settings those of the last one.
    """

    latency_ms_p50: Ms = Field(description="Median in ms: the median of processes' medians.")
    latency_ms_p50_low: MsEnd = Field(description="Lower end of its 95 % interval, in ms.")
    latency_ms_p50_high: MsEnd = Field(
        description="Upper end of the median's 95 % interval, in ms."
    )
    latency_ms_mean: Ms = Field(description="Mean in ms: the mean of processes' means.")
    latency_ms_min: Ms = Field(description="Shortest sample, in ms.")
    latency_ms_p90: Ms | None = Field(
        None,
        description="90th percentile in ms, the median of processes'; None under 64 samples.",
    )
    latency_ms_p90_low: MsEnd | None = Field(None, description="Lower end of its 95 % interval.")
    latency_ms_p90_high: MsEnd | None = Field(None, description="Upper end of its 95 % interval.")
    latency_ms_p95: Ms | None = Field(
        None,
        description="95th percentile in ms, the median of processes'; None under 130 samples.",
    )
    latency_ms_p95_low: MsEnd | None = Field(None, description="Lower end of its 95 % interval.")
    latency_ms_p95_high: MsEnd | None = Field(None, description="Upper end of its 95 % interval.")
    latency_ms_p99: Ms | None = Field(
        None,
        description="99th percentile in ms, the median of processes'; None under 662 samples.",
    )
    latency_ms_p99_low: MsEnd | None = Field(None, description="Lower end of its 95 % interval.")
    latency_ms_p99_high: MsEnd | None = Field(None, description="Upper end of its 95 % interval.")
    latency_with_copies_ms_p50: Ms | None = Field(
        description="Median with input and output copied, in ms; None with several in flight."
    )
    latency_on_device_ms_p50: Ms | None = Field(
        None, description="Median by the GPU's own clock, in ms; None if it does not tell."
    )
    enqueue_ms_p50: Amount | None = Field(
        None, description="Median time to put an inference on the GPU's stream, in ms; or None."
    )
    bound_by_host: bool = Field(
        False, description="True if the GPU waits for the host: enqueuing takes as long as running."
    )
    throttled_turns: Count = Field(
        0, description="Turns in which the GPU was held back, of all processes."
    )
    throughput_images_s: Amount = Field(
        description="Images per second, run back to back: the median of processes'; or LoadGen's."
    )
    throughput_images_s_low: Amount | None = Field(
        None, description="Lower end of its 95 % interval; None for LoadGen."
    )
    throughput_images_s_high: Amount | None = Field(
        None, description="Upper end of its 95 % interval; None for LoadGen."
    )
    runtime_import_ms: Amount = Field(description="Time to import the runtime's library, in ms.")
    load_ms: Amount = Field(description="Time to load the artifact in ms, torch's module included.")
    first_inference_ms: Amount = Field(
        description="Time of the first inference in ms, its input's copy and CUDA graph included."
    )
    memory_before_load_mib: Amount = Field(description="Peak host memory before loading, in MiB.")
    memory_peak_mib: Amount = Field(description="Peak host memory to the end, in MiB.")
    device_memory_peak_mib: float | None = Field(
        description="Memory that the process held on the GPU after sampling, in MiB; or None."
    )
    energy_j_per_image: float | None = Field(
        description="Energy per image, in joules; None without a meter, or in LoadGen's scenarios."
    )
    energy_source: str = Field(description="Meter: nvml (GPU) or rapl (packages); empty for none.")
    processes: Number = Field(description="Processes that measured the row.")
    samples: Number = Field(description="Timed inferences of all processes.")
    warmup_runs: Count = Field(description="Inferences of all warm-ups, which were thrown away.")
    stopped_by: str = Field(
        description="What ended sampling: turns (all taken), budget (in flight) or loadgen."
    )
    steady: bool = Field(description="True if no disturbance was seen; advice is then empty.")
    advice: tuple[str, ...] = Field(description="Disturbances and what to try; empty if steady.")
    runtime_facts: dict[str, str] = Field(description="Version, provider and settings in force.")
    load_average_1min: float | None = Field(description="Load average at warm-up; None if unknown.")
    before: Conditions = Field(description="State of the machine before the first process sampled.")
    after: Conditions = Field(description="State of the machine after the last process sampled.")
    scenario: ScenarioResult | None = Field(
        description="Result of LoadGen; None for stmdeploy's own loop."
    )


class OperatorTime(Document):
    """One operator of one inference, by the runtime's profiler."""

    name: str = Field(description="Name of the node, layer or module.")
    operator: str = Field(description='Type of the operator; "layer" for TensorRT.')
    part: str = Field(description='Part of the model, as in "stage 2 mixer"; other if unknown.')
    start_ms: float = Field(description="Start after the beginning of the inference, in ms.")
    duration_ms: float = Field(description="Duration in ms; for torch on a GPU, of its kernels.")
