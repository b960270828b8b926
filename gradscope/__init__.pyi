# The public names, by room, listed once: read by type checkers, and at run time by lazy_loader.

__version__: str

# Recording
from .recorder.cadence import DenseStart as DenseStart
from .recorder.cadence import Every as Every
from .recorder.cadence import Windows as Windows
from .recording.open_recordings import close_recordings as close_recordings
from .recording.opening import record as record
from .recording.recording import Recording as Recording
from .recording.sink import Sink as Sink
from .store.storage import Storage as Storage

# A record and its verdict
from .diagnosis.verdict import Diagnosis as Diagnosis
from .reading import diagnose as diagnose
from .store.reader import open_run as open_run

# Penalties, schedules, controllers
from .regularizers.activity import regularize_activity as regularize_activity
from .regularizers.attach import regularize as regularize
from .regularizers.constrained import CPR as CPR
from .regularizers.controllers import AdvanceL2 as AdvanceL2
from .regularizers.controllers import AutoL2 as AutoL2
from .regularizers.coupled import Ivanov as Ivanov
from .regularizers.coupled import Taper as Taper
from .regularizers.groups import GroupLasso as GroupLasso
from .regularizers.masks import mask_gradients as mask_gradients
from .regularizers.penalties import L0 as L0
from .regularizers.penalties import L1 as L1
from .regularizers.penalties import L1L2 as L1L2
from .regularizers.penalties import L2 as L2
from .regularizers.penalties import LInf as LInf
from .regularizers.penalties import Lp as Lp
from .regularizers.penalties import Penalty as Penalty
from .regularizers.schedule import Constant as Constant
from .regularizers.schedule import Schedule as Schedule
from .regularizers.schedules import parse_schedule as parse_schedule
from .regularizers.term import Term as Term
from .regularizers.timed import Cyclic as Cyclic
from .regularizers.timed import Delayed as Delayed
from .regularizers.timed import Ramp as Ramp
from .regularizers.timed import StrongFirst as StrongFirst
from .regularizers.timed import Table as Table

# Restarts
from .processes.instructions import resume_from as resume_from
from .restart.checkpoint import Checkpoint as Checkpoint
from .restart.in_process import Restarts as Restarts

# Tolerance level, useful strength
from .prediction.suggest import Suggestion as Suggestion
from .prediction.suggest import suggest_strength as suggest_strength
from .tolerance.result import ToleranceResult as ToleranceResult
from .tolerance.search import search_tolerance as search_tolerance
from .tuning.result import TuneResult as TuneResult
from .tuning.tune import tune_strength as tune_strength

# Verdict words and errors
from .types import InputError as InputError
from .types import LearningFailure as LearningFailure
from .types import RecordExistsError as RecordExistsError
from .types import RecordNotFoundError as RecordNotFoundError
from .types import Verdict as Verdict
