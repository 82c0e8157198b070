-- What wrk asks for, and what it tells of it, as one line of JSON.
--    wrk ... URL                                     the URL, again and again
--    wrk ... URL -- PATHS SEQUENCE FIRST COUNT       objects in a given order; ends when the last one was asked for
-- PATHS has a path in each line; SEQUENCE is the order, line numbers from 0 as 32-bit integers of this machine.

local ffi = require("ffi")
ffi.cdef [[ int getpid(void); int kill(int, int); ]]
local SIGINT = 2

local function walk(paths, sequence, first, count)
   local requests = {}
   for path in io.lines(paths) do
      requests[#requests + 1] = wrk.format("GET", path)
   end
   local file = assert(io.open(sequence, "rb"))
   order = file:read("*a") -- global, so that it stays where it is as long as the thread lives
   file:close()
   local numbers = ffi.cast("const uint32_t *", order)
   local position, last, is_checked = first, first + count, false
   return function()
      if not is_checked then -- wrk asks once before it starts, to see how many requests come at a time
         is_checked = true
      elseif position == last then
         wrk.thread:stop()
         ffi.C.kill(ffi.C.getpid(), SIGINT)
         return requests[numbers[last - 1] + 1]
      else
         position = position + 1
      end
      return requests[numbers[math.max(position - 1, first)] + 1]
   end
end

function init(args)
   if #args > 0 then
      request = walk(args[1], args[2], tonumber(args[3]), tonumber(args[4]))
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nmeasured {"seconds": %.6f, "requests": %d, "bytes_read": %d, "p50_us": %.1f, "p99_us": %.1f, "errors": %d}\n',
      summary.duration / 1e6, summary.requests, summary.bytes, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
