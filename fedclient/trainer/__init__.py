"""The child process that trains or judges: started for one job, gone with its memory when it is done.

    python -m fedclient.trainer job '<JobArguments as JSON>'
    python -m fedclient.trainer judge '<JudgeArguments as JSON>'
    python -m fedclient.trainer dry-run '<DryRunArguments as JSON>'

Its exit code (`device.jobs.TrainerExit`) is all that the agent needs to know of the end.
"""
