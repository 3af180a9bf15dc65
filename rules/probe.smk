"""The settings resolved for this machine, and what this machine is."""


rule study:
    output:
        f"{LOCAL}/{{part}}.json",
    log:
        "logs/{part}.log",
    wildcard_constraints:
        part="study|job_study",
    conda:
        ENVIRONMENT
    params:
        # resolved above, for this machine: on another one the same configuration is another study
        resolved=lambda wildcards: json.dumps(RESOLVED[wildcards.part], indent=1),
    shell:
        "printf '%s\\n' {params.resolved:q} > {output} 2> {log}"


rule probe:
    input:
        relative(sources("evaluation.records.probe")),
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
        "python3 -m evaluation.records.probe --device {params.device} --out {output} > {log} 2>&1"
