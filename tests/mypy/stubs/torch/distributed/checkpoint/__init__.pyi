from torch.distributed.checkpoint.state_dict_saver import save as save
