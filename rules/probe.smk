"""The settings resolved for this machine, and what this machine is."""


rule study:
    output:
        f"{LOCAL}/study.json",
    log:
        "logs/study.log",
    conda:
        ENVIRONMENT
    params:
        config=shlex.quote(json.dumps(config, sort_keys=True)),
    shell:
        "python3 -m evaluation.study --config-json {params.config} --out {output} > {log} 2>&1"


rule probe:
    input:
        module("probe"),
    output:
        f"{LOCAL}/machine.json",
    log:
        "logs/probe.log",
    priority: 1000
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
    shell:
        "python3 -m evaluation.probe --out {output} > {log} 2>&1"
