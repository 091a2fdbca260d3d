"""One TOML file per processor, named as `--gpu` takes it; figures from its datasheet."""
