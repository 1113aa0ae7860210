package outbox

// chores does what is due besides committing: damaged files, receipted files, a
// spare for the next segment.
func (o *Outbox) chores() error {
	if err := o.reclaim(); err != nil {
		return err
	}
	return nil
}

func (o *Outbox) packSome() (bool, error) { return false, nil }
