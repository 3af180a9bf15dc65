"""The study resolved for this machine, what each kind of job is given of it, and what this machine is."""


rule study:
    output:
        f"{LOCAL}/study.json",
    log:
        "logs/study.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        # resolved already, for this machine: on another one the same configuration is another study
        resolved=json.dumps(STUDY.published(), indent=1),
    shell:
        # The digest of the rules is no input and no parameter: it stays that of the day on which the study was written.
        "python3 -m evaluation.claims.rules {params.resolved:q} > {output} 2> {log}"


# What the jobs of one kind are given, so that a change of what they do not read measures none of them again. (Not the
# whole study as ancient(): a rule that runs again behind an ancient input hides that other inputs or parameters changed.)
rule job_study:
    output:
        f"{LOCAL}/studies/{{kind}}.json",
    log:
        "logs/studies/{kind}.log",
    wildcard_constraints:
        kind="|".join(READS),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        resolved=lambda wildcards: json.dumps(STUDY.for_job(wildcards.kind), indent=1),
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
        mem_mb=PROCESS_MB,
    params:
        device=STUDY.device,
    shell:
        "python3 -m evaluation.records.probe --device {params.device} --out {output} > {log} 2>&1"
