"""The environment variables by which this project's processes talk to each other."""

# the socket of a process that has NeMo loaded and runs commands in forks of itself
PRELOADED = "GRANITE41_PRELOADED"
# a file that receives what is logged, too; the launcher of a chain follows it
LOG_FILE = "GRANITE41_LOG_FILE"
