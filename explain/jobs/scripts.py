"""The state changes of the queue as Lua scripts. Each is atomic in Redis and may be sent twice without harm.

The hash of a job names the job's stream entry (``entry`` = stream name and id). An entry that its job does not name is
stale: the worker that receives it drops it. So a job never has two valid entries.
"""

# KEYS: job, live stream, batch stream. ARGV: job id, priority, time, then the hash's fields.
# Returns the state the job had, or 'new'.
SUBMIT = """
local state = redis.call('HGET', KEYS[1], 'state')
local target = ARGV[2] == 'live' and KEYS[2] or KEYS[3]
if state then
  if state == 'queued' and ARGV[2] == 'live' and redis.call('HGET', KEYS[1], 'priority') == 'batch' then
    local entry = redis.call('XADD', target, '*', 'job', ARGV[1])
    redis.call('HSET', KEYS[1], 'priority', 'live', 'entry', target .. ' ' .. entry)
  end
  return state
end
local entry = redis.call('XADD', target, '*', 'job', ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', target .. ' ' .. entry, 'submitted', ARGV[3],
           unpack(ARGV, 4))
return 'new'
"""

# KEYS: job. ARGV: entry, delivery count, time. Returns 'run', 'stale' or 'finished'.
START = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or redis.call('HGET', KEYS[1], 'entry') ~= ARGV[1] then return 'stale' end
if state == 'done' or state == 'failed' or state == 'dead' then return 'finished' end
redis.call('HSET', KEYS[1], 'state', 'running', 'deliveries', ARGV[2], 'started', ARGV[3])
return 'run'
"""

# KEYS: job, stream, completions stream. ARGV: group, id, job id, keep seconds, 1 to announce, then the hash's fields.
# Returns 1 for the one call that finished the job.
FINISH = """
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' or state == 'failed' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[4])
if ARGV[5] == '1' then redis.call('XADD', KEYS[3], '*', 'job', ARGV[3]) end
return 1
"""

# Only the owner may release or dead-letter an entry: after a long pause, another worker may own it.
# KEYS: job, stream. ARGV: group, consumer, id, idle in ms, delivery count, then the hash's fields.
RELEASE = """
local held = redis.call('XPENDING', KEYS[2], ARGV[1], ARGV[3], ARGV[3], 1)
if #held == 0 or held[1][2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[2], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
return 1
"""

# KEYS: job, stream, dead-letter stream, completions stream. ARGV: group, id, job id, code, message, deliveries, time,
# 1 to announce, consumer. Returns 1 for the one call that moved the job.
DEAD_LETTER = """
local held = redis.call('XPENDING', KEYS[2], ARGV[1], ARGV[2], ARGV[2], 1)
if #held == 0 or held[1][2] ~= ARGV[9] then return 0 end
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' then return 0 end
redis.call('HSET', KEYS[1], 'state', 'dead', 'code', ARGV[4], 'message', ARGV[5], 'deliveries', ARGV[6])
redis.call('XADD', KEYS[3], '*', 'job', ARGV[3], 'code', ARGV[4], 'message', ARGV[5], 'deliveries', ARGV[6],
           'time', ARGV[7])
if ARGV[8] == '1' then redis.call('XADD', KEYS[4], '*', 'job', ARGV[3]) end
return 1
"""

# KEYS: job, live stream, batch stream, dead-letter stream. ARGV: dead-letter id, job id.
REQUEUE = """
if redis.call('XDEL', KEYS[4], ARGV[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[1], 'state') ~= 'dead' then return 0 end
local target = redis.call('HGET', KEYS[1], 'priority') == 'live' and KEYS[2] or KEYS[3]
local entry = redis.call('XADD', target, '*', 'job', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', target .. ' ' .. entry, 'deliveries', '0')
redis.call('HDEL', KEYS[1], 'code', 'message')
return 1
"""
