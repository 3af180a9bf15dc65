"""The settings resolved for this machine, and what this machine is."""


rule study:
    output:
        f"{LOCAL}/study.json",
    log:
        "logs/study.log",
    conda:
        ENVIRONMENT
    params:
        config=shlex.quote(json.dumps(SETTINGS, sort_keys=True)),
        # not in the command, but tracked: on another machine the same configuration is another study
        resolved=json.dumps(STUDY.to_json(), sort_keys=True),
    shell:
        "python3 -m evaluation.config --config-json {params.config} --out {output} > {log} 2>&1"


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
    params:
        device=STUDY.device,
    shell:
        "python3 -m evaluation.probe --device {params.device} --out {output} > {log} 2>&1"
