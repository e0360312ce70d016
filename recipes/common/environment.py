"""The environment variables by which this project's processes talk to each other."""

# the socket of a process that has NeMo loaded and runs commands in forks of itself
PRELOADED = "GRANITE41_PRELOADED"
# a file that receives what is logged, too; the launcher of a chain follows it
LOG_FILE = "GRANITE41_LOG_FILE"
# the commit of the code that a job on a cluster runs, a copy without git
COMMIT = "GRANITE41_COMMIT"
# a file that a user's mistake creates: launchers change the exit status
USER_ERROR_MARKER = "GRANITE41_USER_ERROR_MARKER"
# seconds since 1970 at which training saves a checkpoint and stops, ahead of a job's time limit
STOP_AT = "GRANITE41_STOP_AT"
# 1 where lm-eval's process may run code that a model writes, in the sandbox
ALLOW_CODE = "GRANITE41_ALLOW_CODE"
