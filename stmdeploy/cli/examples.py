"""Three examples of every command, for its help and the reference; tests parse each."""

from __future__ import annotations

#: Without the program's name, by command.
EXAMPLES: dict[str, tuple[str, str, str]] = {
    "list": ("list", "list targets", "list promises --task detection"),
    "count": (
        "count --stm dcn",
        "count --stm halo,swin --scale all --image-size 448",
        "count --model my_package.my_module:my_model --modules",
    ),
    "export": (
        "export --stm dcn --scale tiny --checkpoint official",
        "export --stm swin --target onnx,openvino --precision fp32,int8 --calibration photographs",
        "export --stm pvt --task detection --dynamic-size",
    ),
    "inspect": (
        "inspect stmdeploy-artifacts/unified_dcn_v3_tiny-224x224-fp32.onnx",
        "inspect model.onnx",
        "inspect model.onnx --input image:1x3x480x640",
    ),
    "profile": (
        "profile",
        "profile --stm convnext,swin --scale tiny --runtime onnxruntime,openvino --batch 1,8",
        "profile model.onnx --batch 1",
    ),
    "tune": (
        "tune --stm dcn --scale micro",
        "tune --stm swin --max-error 0.02 --data photographs",
        "tune model.onnx --runtime onnxruntime,openvino",
    ),
    "evaluate": (
        "evaluate stmdeploy-artifacts/unified_dcn_v3_tiny-224x224-fp32.onnx --data imagenet/val",
        "evaluate model.onnx --data imagenet/val --limit 1000",
        "evaluate net-int8.onnx --reference net-fp32.onnx --data val --class-map classes.json",
    ),
    "invariance": (
        "invariance net.onnx --data photographs",
        "invariance net-fp32.onnx net-int8.onnx --data photographs --figure curves.svg",
        "invariance net.onnx --data photographs --protocol authors",
    ),
    "receptive-field": (
        "receptive-field --stm halo,dcn --scale micro",
        "receptive-field --stm swin --data photographs --images 32",
        "receptive-field --stm pvt --checkpoint pvt.pth",
    ),
    "sensitivity": (
        "sensitivity --stm convnext --precision int8 --data photographs",
        "sensitivity --stm dcn --precision fp16 --figure errors.svg",
        "sensitivity net.onnx --precision int8 --data photographs",
    ),
    "bound": (
        "bound --gpu a100",
        "bound --stm dcn --scale all --gpu a100,t4 --batch 1,32",
        "bound stmdeploy-artifacts/unified_dcn_v3_tiny-224x224-fp32.onnx --gpu l4",
    ),
    "check": (
        "check baseline.tar.gz",
        "check baseline.tar.gz stmdeploy-artifacts --threshold-percent 8 --junit check.xml",
        "check old.onnx new.onnx --batch 1,8",
    ),
    "history": (
        "history",
        "history --row swin --relative-to convnext",
        "history --threshold-percent 5 --figure history.png",
    ),
    "report": (
        "report",
        "report --figures figures --reference swin/openvino",
        "report --markdown",
    ),
    "recommend": (
        "recommend --max-latency-ms 10",
        "recommend --gpu a100 --min-top1 80 --max-memory-mib 500",
        "recommend --task detection --min-box-ap 40",
    ),
    "hardware list": ("hardware list", "hardware list --json", "hardware list -q"),
    "hardware show": ("hardware show a100", "hardware show jetson-orin", "hardware show t4 --json"),
    "hardware detect": ("hardware detect", "hardware detect --json", "hardware detect -v"),
    "hardware measure": (
        "hardware measure",
        "hardware measure --json",
        "hardware measure --timeout-s 300",
    ),
    "baseline create": (
        "baseline create --stm convnext --scale micro --batch 1 --out baseline.tar.gz",
        "baseline create model.onnx --out baseline.tar.gz",
        "baseline create --config stmdeploy-tuned/unified_dcn_v3_micro.toml",
    ),
    "baseline show": (
        "baseline show",
        "baseline show baseline.tar.gz",
        "baseline show baseline.tar.gz --json",
    ),
    "results list": ("results list", "results list --out elsewhere", "results list --json"),
    "results evaluations": (
        "results evaluations",
        "results evaluations --out elsewhere",
        "results evaluations --json",
    ),
    "results show": (
        "results show",
        "results show 20260101-000000-abcd",
        "results show --reference swin --markdown",
    ),
    "results export": (
        "results export rows.csv",
        "results export rows.parquet --sweep 20260101-000000-abcd",
        "results export rows.csv --timm",
    ),
    "results merge": (
        "results merge elsewhere",
        "results merge one/results.db two/results.db --out all",
        "results merge postgresql+psycopg://host/rows",
    ),
    "results prune": (
        "results prune 20260101-000000-abcd",
        "results prune --keep 10",
        "results prune --keep 10 --samples",
    ),
}
