"""A machine as rows record it: what it is, the state it is in, and what it can do at most."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stmdeploy.schema.document import Amount, Count, Document, Ms, Number, PlainText


class Environment(Document):
    """The machine and software that a row was measured on."""

    processor: PlainText = Field(description="Name of the processor; its architecture if unnamed.")
    cores: Number = Field(description="Logical processors of the machine; 1 if unknown.")
    threads_available: Number = Field(description="Logical processors that the process may use.")
    memory_gib: Amount = Field(description="Memory of the machine, in GiB.")
    gpus: tuple[PlainText, ...] = Field(description="Names of usable NVIDIA GPUs; empty for none.")
    os: PlainText = Field(description="Operating system and its release, such as Linux 6.8.0.")
    python: PlainText = Field(description="Version of Python.")
    virtual_machine: bool | None = Field(description="True in a virtual machine; None if unknown.")
    governor: PlainText | None = Field(description="Frequency governor of CPU 0; None if unknown.")
    load_average_1min: float | None = Field(
        description="Load average of the minute before this was read; None if unknown."
    )
    versions: dict[PlainText, PlainText] = Field(
        description="Versions of the recorded packages that are installed, and of nvidia-driver."
    )


class Conditions(Document):
    """The state of the machine at one moment; None where it cannot be read, or without a GPU."""

    cpu_mhz: float | None = Field(None, description="Mean clock of the processors, in MHz.")
    cpu_temperature_c: float | None = Field(
        None, description="Temperature of the hottest processor sensor, in degrees Celsius."
    )
    cpu_throttle_events: int | None = Field(None, description="Thermal throttle events since boot.")
    package_energy_j: float | None = Field(None, description="Sum of RAPL's counters, in joules.")
    gpu_sm_mhz: float | None = Field(None, description="Clock of the GPU's processors, in MHz.")
    gpu_memory_mhz: float | None = Field(None, description="Clock of the GPU's memory, in MHz.")
    gpu_temperature_c: float | None = Field(None, description="GPU's temperature, degrees Celsius.")
    gpu_power_w: float | None = Field(None, description="Power that the GPU draws, in watts.")
    gpu_energy_j: float | None = Field(None, description="Energy counter of the GPU, in joules.")
    gpu_throttle_reasons: tuple[str, ...] | None = Field(
        None, description="NVML's reasons for low clocks, harmless ones left out; empty for none."
    )
    gpu_memory_used_mib: float | None = Field(
        None, description="Memory in use on the GPU by all processes, in MiB."
    )
    gpu_process_memory_mib: float | None = Field(
        None, description="Memory that this process holds on the GPU, in MiB."
    )
    gpu_max_sm_mhz: float | None = Field(
        None, description="Highest clock of the GPU's processors, MHz."
    )
    gpu_power_limit_w: float | None = Field(None, description="Power limit in force, in watts.")
    gpu_ecc: bool | None = Field(None, description="True if its memory corrects errors (ECC).")
    gpu_persistence: bool | None = Field(
        None, description="True if the driver stays loaded without users (persistence mode)."
    )
    gpu_processes: int | None = Field(None, description="Processes on the GPU, this one included.")


class Rate(Document):
    """The highest rate at which a processor multiplies and adds in one precision."""

    precision: PlainText = Field(description="Precision of the products, such as fp16.")
    tflops: float = Field(
        gt=0, le=1e9, description="Rate in 10^12 operations per second; a multiply-add counts as 2."
    )
    by: PlainText = Field(description="Library that reached it, or the datasheet's kind of cores.")


class MemoryLevel(Document):
    """One level of memory, which serves the bytes that do not fit into the levels before it."""

    up_to_mib: Ms | None = Field(description="Capacity up to here, in MiB; None for the last.")
    gb_s: Ms | None = Field(description="Bandwidth in GB/s; None if its bytes cost nothing.")


class Peaks(Document):
    """What a processor can do at most: measured here, or as its datasheet says."""

    kind: Literal["measured", "datasheet"] = Field(description="Origin of the figures.")
    source: str = Field(description="Datasheet, or what was measured with how many threads.")
    rates: tuple[Rate, ...] = Field(min_length=1, description="Highest rates, by precision.")
    memory: tuple[MemoryLevel, ...] = Field(min_length=1, description="Levels, the smallest first.")

    @model_validator(mode="after")
    def _memory_has_an_end(self) -> Self:
        """The last level serves whatever is larger than all others, so it needs a speed."""
        if self.memory[-1].up_to_mib is not None or self.memory[-1].gb_s is None:
            raise ValueError("the last level of memory has a capacity, or no bandwidth")
        return self


class Bound(Document):
    """The roofline bound of a row: not measured, but computed from its graph and from peaks."""

    bound_ms: Amount = Field(
        description="Least time of one inference, in ms: per operator, the larger of the next two."
    )
    compute_ms: Amount = Field(description="Time of the multiplications alone, in ms.")
    memory_ms: Amount = Field(description="Time of the memory traffic alone, in ms.")
    macs: Count = Field(description="Multiply-accumulates of the graph, for the whole batch.")
    bytes: Count = Field(description="Bytes of their operands and results, for the whole batch.")
    parts_ms: dict[str, Amount] = Field(description="Share of each model part in bound_ms, in ms.")
    rate: Rate = Field(description="Rate that the multiplications are assumed to run at.")
    peaks: Peaks = Field(description="Peaks of the processor that the bound is computed from.")
